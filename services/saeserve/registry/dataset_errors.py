"""What can be wrong with a data set, said the same way everywhere."""

from __future__ import annotations

from saeserve.errors import Conflict, FailedPrecondition, NotFound
from saeserve.registry import refusals
from saeserve.registry.dataset import Dataset, DatasetFile


def no_dataset(name: str, field: str) -> NotFound:
    """There is no data set `name`."""
    return _not_found(
        f"there is no data set {name}", field, "upload or register files, or harvest one"
    )


def deleted_meanwhile(name: str) -> NotFound:
    """The data set was deleted while files of it were uploaded."""
    return _not_found(f"data set {name} was deleted during the upload", "", "upload it again")


def _not_found(message: str, field: str, remedy: str) -> NotFound:
    return NotFound(message, code="DATASET_NOT_FOUND", field=field, remedy=remedy)


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
    return _exists(f"data set {name} exists" + (f"; job {job} makes it" if job else ""))


def other_files(name: str) -> Conflict:
    """Other files are registered with the data set."""
    return _exists(f"data set {name} has other files registered")


def other_manifest(name: str) -> Conflict:
    """Another attempt or job has made the data set READY."""
    return _exists(f"data set {name} is READY with another manifest")


def _exists(message: str) -> Conflict:
    return Conflict(
        message,
        code="DATASET_EXISTS",
        field="dataset",
        remedy="use another name, or delete that data set",
    )


def takes_no_files(found: Dataset) -> FailedPrecondition:
    """The data set is no longer PENDING."""
    what = f"{found.state} and takes no more files"
    return _not_pending(found, what, "header.dataset", "upload to another name")


def takes_no_ingest(found: Dataset, field: str) -> FailedPrecondition:
    """The data set is not, or not only, files that wait for an ingest job."""
    what = f"{found.state}" + (f" and made by job {found.job}" if found.job else "")
    remedy = "upload or register files under a new name, and ingest that"
    return _not_pending(found, what, field, remedy)


def _not_pending(found: Dataset, what: str, field: str, remedy: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"data set {found.name} is {what}", code="DATASET_NOT_PENDING", field=field, remedy=remedy
    )


def in_use(name: str, jobs: list[str]) -> FailedPrecondition:
    """Live jobs use the data set."""
    return refusals.in_use(
        f"data set {name} is used by {', '.join(f'job {job}' for job in jobs)}",
        field="name",
        remedy="wait for the jobs or cancel them, or delete with force",
    )


def incomplete(name: str, file: DatasetFile) -> FailedPrecondition:
    """A file of the data set is not wholly there."""
    size = "missing" if file.size_bytes < 0 else f"{file.received_bytes} of {file.size_bytes} bytes"
    return refusals.upload_incomplete(
        f"data set {name}: {file.name} is {size}",
        remedy="finish the upload, or put the file back",
        field="dataset",
    )
