"""What live jobs use, so that it is not deleted or changed under them."""

from __future__ import annotations

from collections.abc import Iterator

from saeserve.control.handlers.catalog import JobCatalog
from saeserve.core.specs.jobs import JobSpec
from saeserve.jobs.record import JobRecord, Submission
from saeserve.platform.errors import FailedPrecondition, NotFound
from saeserve.registry.models import ModelRegistry


def spec_of(submission: Submission) -> JobSpec:
    """The resolved spec. Raises SpecError when this release does not read it."""
    return JobSpec.parse(submission.resolved_spec, "")


def dataset_of(spec: JobSpec) -> str:
    """Name of the data set that a job reads or makes."""
    job = spec.train or spec.harvest or spec.ingest or spec.evaluate
    return job.dataset if job else ""


class LiveUse:
    """Answers which live jobs use a data set or a model version."""

    def __init__(self, catalog: JobCatalog, models: ModelRegistry) -> None:
        self._catalog = catalog
        self._models = models

    def of_dataset(self, name: str) -> list[str]:
        """Ids of the live jobs that read or make the data set."""
        return [record.id for record, spec in self._live() if dataset_of(spec) == name]

    def ingesting(self, name: str) -> list[str]:
        """Ids of the live jobs that ingest the data set."""
        return [
            record.id for record, spec in self._live() if spec.ingest and dataset_of(spec) == name
        ]

    def of_model(self, resource: str) -> list[str]:
        """Ids of the live jobs that evaluate the version."""
        return [record.id for record, spec in self._live() if self._evaluates(spec, resource)]

    def _live(self) -> Iterator[tuple[JobRecord, JobSpec]]:
        return ((record, spec_of(record.submission)) for record in self._catalog.live())

    def _evaluates(self, spec: JobSpec, resource: str) -> bool:
        if spec.evaluate is None:
            return False
        try:
            return self._models.resolve(spec.evaluate.model).resource == resource
        except (NotFound, FailedPrecondition):  # not there, or not yet
            return False
