"""What a caller may see of jobs and uploads: its own; what belongs to others is as if not there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from saeserve.control.handlers.kind import JobKind
from saeserve.control.handlers.order import JobOrder
from saeserve.control.handlers.usage import uploads_in
from saeserve.jobs.errors import no_job
from saeserve.jobs.record import JobFilter, JobRecord, Submission
from saeserve.platform.auth.caller import Caller
from saeserve.registry.model_uploads import ModelUploads
from saeserve.registry.owners import Kind, Owners
from saeserve.registry.refusals import not_owner


def seen_by(caller: Caller, record: JobRecord, field: str = "") -> JobRecord:
    """`record`, when `caller` may see it. Raises NotFound."""
    check_seen(caller, record.submission, field)
    return record


def check_seen(caller: Caller, submission: Submission, field: str = "") -> None:
    """Raise NotFound, as for a job that does not exist, unless `caller` may see this one."""
    if not caller.owns(submission.owner):
        raise no_job(submission.id, field)


def owned_order(order: JobOrder, caller: Caller) -> JobOrder:
    """The order with its owner: the caller's, unless an administrator names another.

    Raises PermissionDenied for an owner that the caller is not.
    """
    if caller.admin and order.owner:
        return replace(order, caller=caller)
    _check_owner(order.owner, caller, "owner")
    return replace(order, caller=caller, owner=caller.owner)


def owned_filter(wanted: JobFilter, caller: Caller) -> JobFilter:
    """The filter, which finds no jobs of others. Raises PermissionDenied when it asks for those."""
    if caller.admin:
        return wanted
    _check_owner(wanted.owner, caller, "filter.owner")
    return wanted.model_copy(update={"owner": caller.owner})


def _check_owner(owner: str, caller: Caller, field: str) -> None:
    if owner not in ("", caller.owner):
        raise not_owner(
            f"token {caller.token} is of owner {caller.owner}, not of {owner}",
            field=field,
            remedy="leave the owner out, or use a token with the scope admin",
        )


class OrderOwnership:
    """What a job changes and reads of its submitter: names of models and data sets, and uploads."""

    def __init__(self, owners: Owners, uploads: ModelUploads) -> None:
        self._owners = owners
        self._uploads = uploads

    def check(self, order: JobOrder, job: JobKind[Any]) -> None:
        """Raise PermissionDenied for a name of another owner, NotFound for another's upload."""
        for kind, name, field in _made(job):
            self._owners.check(kind, name, order.caller, field)
        for resource in uploads_in(job, f"spec.{job.name}.path"):
            self._uploads.check_owner(resource, order.caller)

    def claim(self, order: JobOrder, job: JobKind[Any]) -> None:
        """Make new names the order's owner's. Raises as `check`."""
        for kind, name, field in _made(job):
            self._owners.claim(kind, name, order.owner, order.caller, field)


def _made(job: JobKind[Any]) -> Iterator[tuple[Kind, str, str]]:
    """What the job makes or changes: kind, name, and the field that names it."""
    for model in job.publishes:
        yield "models", model, f"spec.{job.name}.model"
    if job.makes_dataset:
        yield "datasets", job.makes_dataset, f"spec.{job.name}.dataset"
