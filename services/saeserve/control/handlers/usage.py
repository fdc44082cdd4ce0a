"""What live jobs use, so that it is not deleted or changed under them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from saeserve.control.handlers.catalog import JobCatalog
from saeserve.control.handlers.kind import JobKind
from saeserve.control.handlers.kinds import KINDS, kind_of_submission
from saeserve.errors import FailedPrecondition, NotFound
from saeserve.jobs.record import JobRecord, Submission
from saeserve.registry.models import ModelRegistry
from saeserve.registry.upload_paths import split_path

_UPLOADING = frozenset(name for name, kind in KINDS.items() if kind.takes_uploads)


def uploads_of(submission: Submission) -> frozenset[str]:
    """The uploads that a job imports from, its reference's included."""
    return uploads_in(kind_of_submission(submission))


def uploads_in(job: JobKind[Any], field: str = "path") -> frozenset[str]:
    """The uploads that a spec names. Raises InvalidInput, naming `field`, for a malformed path."""
    return frozenset(split_path(path, field)[0] for path in job.uploads)


@dataclass(frozen=True)
class WaitedFor:
    """What the jobs make that a new job waits for; see `Upstream`."""

    records: Sequence[JobRecord]

    def makes_dataset(self, name: str) -> bool:
        """Whether one of them harvests or ingests the data set."""
        return any(job.makes_dataset == name for job in self._jobs())

    def makes_model(self, name: str) -> bool:
        """Whether one of them publishes a version of the model."""
        return any(name in job.publishes for job in self._jobs())

    def _jobs(self) -> Iterator[JobKind[Any]]:
        return (kind_of_submission(record.submission) for record in self.records)


class LiveUse:
    """Answers which live jobs use a data set or a model version."""

    def __init__(self, catalog: JobCatalog, models: ModelRegistry) -> None:
        self._catalog = catalog
        self._models = models

    def of_dataset(self, name: str) -> list[str]:
        """Ids of the live jobs that read or make the data set."""
        return [record.id for record, job in self._live() if job.dataset == name]

    def ingesting(self, name: str) -> list[str]:
        """Ids of the live jobs that ingest the data set."""
        return [record.id for record, job in self._live() if job.fills_dataset == name]

    def of_model(self, resource: str) -> list[str]:
        """Ids of the live jobs that evaluate, export or continue the version."""
        return [record.id for record, job in self._live() if self._reads(job, resource)]

    def of_upload(self, resource: str) -> list[str]:
        """Ids of the live jobs that import from the upload."""
        return [
            record.id
            for record in self._catalog.live()
            if record.submission.kind in _UPLOADING and resource in uploads_of(record.submission)
        ]

    def _live(self) -> Iterator[tuple[JobRecord, JobKind[Any]]]:
        live = self._catalog.live()
        return ((record, kind_of_submission(record.submission)) for record in live)

    def _reads(self, job: JobKind[Any], resource: str) -> bool:
        return any(self._is(reference, resource) for reference in job.reads_models)

    def _is(self, reference: str, resource: str) -> bool:
        try:
            return self._models.resolve(reference).resource == resource
        except (NotFound, FailedPrecondition):  # not there, or not yet
            return False
