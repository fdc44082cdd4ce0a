"""What control needs to know of one kind of job; `kinds` has a class for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from saeserve.control.handlers.inputs import Inputs, Upstream
from saeserve.core.planning.machine import Fleet
from saeserve.core.planning.plan import Plan
from saeserve.core.specs.field_sources import sources_of
from saeserve.core.specs.jobs import JobSpec
from saeserve.core.specs.kind import KindSpec
from saeserve.registry.upload_paths import is_upload

S = TypeVar("S", bound=KindSpec)


@dataclass(frozen=True)
class PlanContext:
    """What a job is checked against and planned for."""

    given: Mapping[str, object]
    """The plain fields that the kind's spec was read from."""
    inputs: Inputs
    upstream: Upstream
    fleet: Fleet

    def planned(self, resolved: JobSpec, plan: Plan) -> tuple[JobSpec, Plan]:
        """Both, the plan with the source of each field of `resolved`."""
        sources = sources_of(self.given, resolved.to_json()[resolved.kind])
        return resolved, plan.model_copy(update={"field_sources": sources})


@dataclass(frozen=True)
class JobKind(ABC, Generic[S]):
    """A job of one kind: how it is checked and planned, what it reads, makes and publishes.

    The defaults are those of a job that runs on the CPU and reads and makes nothing.
    """

    spec: S

    name: ClassVar[str]
    """The name of the kind in a JobSpec, and so in paths of fields."""
    takes_uploads: ClassVar[bool] = False
    """Whether jobs of this kind may read files of uploads."""

    @abstractmethod
    def check(self, context: PlanContext) -> tuple[JobSpec, Plan]:
        """The resolved spec and its plan. Raises ServiceErrors naming the field that is wrong."""

    @property
    def device(self) -> str:
        """The device that the spec asks for: "cpu", "cuda" or "auto"."""
        return "cpu"

    @property
    def architecture(self) -> str:
        """Architecture whose recorded speeds predict this job's; empty where there are none."""
        return ""

    @property
    def reads_dataset(self) -> str:
        """Name of the READY data set that the job reads; empty for none."""
        return ""

    @property
    def reads_models(self) -> tuple[str, ...]:
        """References of the models that the job begins with."""
        return ()

    @property
    def reads_paths(self) -> tuple[str, ...]:
        """Paths of the files that the job reads, root:relative or in an upload, which a submitter
        may have to own."""
        return ()

    @property
    def uploads(self) -> tuple[str, ...]:
        """Paths of `reads_paths` that are in an upload."""
        return tuple(path for path in self.reads_paths if is_upload(path))

    @property
    def creates_dataset(self) -> str:
        """Name of the data set that submitting the job creates as PENDING; empty for none."""
        return ""

    @property
    def fills_dataset(self) -> str:
        """Name of the PENDING data set whose files the job adopts; empty for none."""
        return ""

    @property
    def makes_dataset(self) -> str:
        """Name of the data set that the job makes READY; empty for none."""
        return self.spec.makes_dataset

    @property
    def dataset(self) -> str:
        """Name of the data set that the job reads or makes; empty for none."""
        return self.reads_dataset or self.makes_dataset

    @property
    def publishes(self) -> tuple[str, ...]:
        """Names of the models of which the job publishes a version."""
        return self.spec.publishes
