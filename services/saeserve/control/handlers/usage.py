"""What live jobs use, so that it is not deleted or changed under them."""

from __future__ import annotations

from collections.abc import Iterator

from saeserve.control.handlers.catalog import JobCatalog
from saeserve.core.specs.jobs import JobSpec
from saeserve.errors import FailedPrecondition, NotFound
from saeserve.jobs.record import JobRecord, Submission
from saeserve.registry.models import ModelRegistry
from saeserve.registry.upload_paths import is_upload, split_path


def spec_of(submission: Submission) -> JobSpec:
    """The resolved spec. Raises SpecError when this release does not read it."""
    return JobSpec.parse(submission.resolved_spec, "")


def dataset_of(spec: JobSpec) -> str:
    """Name of the data set that a job reads or makes."""
    job = spec.train or spec.harvest or spec.ingest or spec.evaluate
    return job.dataset if job else ""


def models_of(spec: JobSpec) -> tuple[str, ...]:
    """Names of the models that a job publishes."""
    if spec.train is not None:
        return spec.train.models
    return (spec.import_model.model,) if spec.import_model is not None else ()


def uploads_of(submission: Submission) -> frozenset[str]:
    """The uploads that a job imports from, its reference's included."""
    return uploads_in(spec_of(submission))


def uploads_in(spec: JobSpec, field: str = "path") -> frozenset[str]:
    """The uploads that a spec names. Raises InvalidInput, naming `field`, for what is no path."""
    paths = spec.import_model.paths if spec.import_model is not None else ()
    return frozenset(split_path(path, field)[0] for path in paths if is_upload(path))


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
        """Ids of the live jobs that evaluate, export or continue the version."""
        return [record.id for record, spec in self._live() if self._reads(spec, resource)]

    def of_upload(self, resource: str) -> list[str]:
        """Ids of the live jobs that import from the upload."""
        return [
            record.id
            for record in self._catalog.live()
            if record.submission.kind == "import_model"
            and resource in uploads_of(record.submission)
        ]

    def _live(self) -> Iterator[tuple[JobRecord, JobSpec]]:
        return ((record, spec_of(record.submission)) for record in self._catalog.live())

    def _reads(self, spec: JobSpec, resource: str) -> bool:
        reference = _model_read(spec)
        if reference is None:
            return False
        try:
            return self._models.resolve(reference).resource == resource
        except (NotFound, FailedPrecondition):  # not there, or not yet
            return False


def _model_read(spec: JobSpec) -> str | None:
    """Reference of the model that a job begins with."""
    if spec.train is not None:
        return spec.train.init_from
    job = spec.evaluate or spec.export_model
    return job.model if job else None
