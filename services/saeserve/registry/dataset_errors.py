"""What can be wrong with a data set, said the same way everywhere."""

from __future__ import annotations

from saeserve.errors import Conflict, FailedPrecondition, NotFound
from saeserve.registry.dataset import Dataset, DatasetFile


def no_dataset(name: str, field: str) -> NotFound:
    """There is no data set `name`."""
    return NotFound(
        f"there is no data set {name}",
        code="DATASET_NOT_FOUND",
        field=field,
        remedy="upload or register files, or harvest one",
    )


def not_ready(found: Dataset, field: str, remedy: str = "") -> FailedPrecondition:
    """The data set has no manifest; without a `remedy` it is to be made."""
    why = f": {found.failure}" if found.failure else ""
    return FailedPrecondition(
        f"data set {found.name} is {found.state}{why}",
        code="DATASET_NOT_READY",
        field=field,
        remedy=remedy or "wait for, or submit, the harvest or ingest job that makes it READY",
    )


def has_failed(name: str, failure: str) -> FailedPrecondition:
    """The data set has FAILED for good."""
    return FailedPrecondition(
        f"data set {name} has FAILED: {failure}",
        code="DATASET_FAILED",
        remedy="delete it and make it again",
    )


def taken(name: str, job: str) -> Conflict:
    """The name belongs to another data set."""
    return Conflict(
        f"data set {name} exists" + (f"; job {job} makes it" if job else ""),
        code="DATASET_EXISTS",
        field="dataset",
        remedy="use another name, or delete that data set",
    )


def takes_no_files(found: Dataset) -> FailedPrecondition:
    """The data set is no longer PENDING."""
    return FailedPrecondition(
        f"data set {found.name} is {found.state} and takes no more files",
        code="DATASET_NOT_PENDING",
        field="header.dataset",
        remedy="upload to another name",
    )


def in_use(name: str, jobs: list[str]) -> FailedPrecondition:
    """Live jobs use the data set."""
    return FailedPrecondition(
        f"data set {name} is used by {', '.join(f'job {job}' for job in jobs)}",
        code="IN_USE",
        field="name",
        remedy="wait for the jobs or cancel them, or delete with force",
    )


def incomplete(name: str, file: DatasetFile) -> FailedPrecondition:
    """A file of the data set is not wholly there."""
    size = "missing" if file.size_bytes < 0 else f"{file.received_bytes} of {file.size_bytes} bytes"
    return FailedPrecondition(
        f"data set {name}: {file.name} is {size}",
        code="UPLOAD_INCOMPLETE",
        field="dataset",
        remedy="finish the upload, or put the file back",
    )
