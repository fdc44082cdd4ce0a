"""What every runner gets, and how it ends."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Output, Submission
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.models import ModelRegistry
from saeserve.registry.publication import Publication
from saeserve.registry.roots import Roots
from saeserve.worker.order import JobOrder
from saeserve.worker.report import Report, Scale


class JobStopped(Exception):
    """The runner was asked to stop and has kept what a later attempt can go on from."""


class DeviceMissing(Exception):
    """The job needs a device that this worker has lost: another worker may have it."""


@dataclass(frozen=True)
class Completed:
    """What a job made; the job process commits it as the result."""

    outputs: tuple[Output, ...]
    steps: int = 0


@dataclass(frozen=True)
class RunContext:
    """One attempt: the job, the store's rooms, and the way to report. `stop()` says: come to an
    end soon, keep what can be kept, and raise JobStopped."""

    submission: Submission
    order: JobOrder
    store: ArtifactStore
    ledger: Ledger
    datasets: DatasetRegistry
    models: ModelRegistry
    publication: Publication
    roots: Roots
    report: Report
    asked_to_stop: Callable[[], bool]

    def stop(self) -> bool:
        """Whether to come to an end. To be called after each part of the work: it is taken for a
        sign that the work moves on."""
        self.report.moved()
        return self.asked_to_stop()

    @property
    def attempt_key(self) -> str:
        """Store key of the attempt's folder."""
        return self.ledger.attempt_key(self.order.claim.job, self.order.claim.epoch)

    def check_fence(self) -> None:
        """Raise Fenced when the store shows a later attempt or a result. Called before everything
        that others see: each commit, each publication, each removal."""
        self.ledger.check_fence(self.order.lease)

    def check_stop(self) -> None:
        """Raise JobStopped when asked to stop."""
        if self.stop():
            raise JobStopped


class Stages:
    """Tells how far a job is that has neither steps nor rows to count."""

    def __init__(self, context: RunContext, total: int) -> None:
        self._context = context
        self._done, self._total = 0, total

    def done(self, what: str) -> None:
        """A stage is done. Raises JobStopped when asked to stop, unless it was the last."""
        self._done += 1
        self._context.report.log(what)
        self._context.report.metrics(self._done, {}, Scale("stages", self._total))
        if self._done < self._total:
            self._context.check_stop()


class Runner(Protocol):
    """Runs a job of one kind to its end."""

    def __call__(self, context: RunContext) -> Completed:
        """Raises JobStopped, Fenced, SaeError or ServiceError."""
        ...


def runner_of(kind: str) -> Runner:
    """The runner of `kind`; its module is imported now, so that each job loads only its own."""
    module = importlib.import_module(f"saeserve.worker.runners.{kind}")
    runner: Runner = module.run
    return runner
