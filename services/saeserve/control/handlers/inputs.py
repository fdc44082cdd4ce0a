"""What a job reads: data sets and models that are there, or that the jobs it waits for make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from saeserve.core.formats.manifest import DatasetManifest, SourceEntry
from saeserve.errors import InvalidInput
from saeserve.registry.dataset import DatasetState
from saeserve.registry.dataset_errors import not_ready
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.model_uploads import ModelUploads
from saeserve.registry.models import ModelRegistry
from saeserve.registry.roots import Roots


class Upstream(Protocol):
    """The jobs that a new job waits for."""

    def makes_dataset(self, name: str) -> bool:
        """Whether one of them harvests or ingests the data set."""
        ...

    def makes_model(self, name: str) -> bool:
        """Whether one of them publishes a version of the model."""
        ...


class Ingesting(Protocol):
    """Answers which live jobs ingest a data set."""

    def ingesting(self, name: str) -> list[str]:
        """Ids of the live jobs that ingest the data set."""
        ...


@dataclass(frozen=True)
class Inputs:
    """Where checks look things up."""

    datasets: DatasetRegistry
    models: ModelRegistry
    roots: Roots
    use: Ingesting
    uploads: ModelUploads

    def manifest(self, name: str, upstream: Upstream, field: str) -> DatasetManifest | None:
        """Manifest of a READY data set, or None for a PENDING one that `upstream` makes.

        Raises NotFound, and FailedPrecondition for one that nobody makes READY before this job.
        """
        found = self.datasets.get(name, field)
        if found.manifest is not None:
            return found.manifest
        if found.state is DatasetState.PENDING and upstream.makes_dataset(name):
            return None
        waits = f"put job {found.job} into waits_for" if found.job else "ingest it first"
        pending = found.state is DatasetState.PENDING
        remedy = f"{waits}, or wait until it is READY" if pending else "delete and remake it"
        raise not_ready(found, field, remedy)


def source_of(manifest: DatasetManifest, name: str | None, field: str) -> SourceEntry:
    """The source that a spec names, or the only one. Raises InvalidInput naming what there is."""
    try:
        return manifest.source(name)
    except KeyError:
        names = ", ".join(entry.name for entry in manifest.sources)
        what = "several sources" if name is None else f"no source {name!r}"
        raise InvalidInput(
            f"data set {manifest.name} has {what}",
            code="UNKNOWN_SOURCE",
            field=field,
            remedy=f"name one of: {names}",
        ) from None
