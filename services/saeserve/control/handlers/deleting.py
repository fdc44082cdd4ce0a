"""Deleting jobs that have ended: their records, checkpoints, events and logs."""

from __future__ import annotations

from collections.abc import Callable

from saeserve.control.handlers.catalog import JobCatalog
from saeserve.errors import FailedPrecondition
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import JobIndex
from saeserve.jobs.record import JobRecord
from saeserve.jobs.states import TERMINAL
from saeserve.registry.refusals import in_use


class Deleter:
    """Deletes jobs. What they made (models, data sets, exports) stays."""

    def __init__(
        self,
        catalog: JobCatalog,
        ledger: Ledger,
        index: JobIndex,
        publish: Callable[[str], None],
    ) -> None:
        """`publish` applies a job's result to what it made."""
        self._publish = publish
        self._catalog = catalog
        self._ledger = ledger
        self._index = index

    def delete(self, job: str) -> None:
        """Delete a job that has ended.

        Raises NotFound, FailedPrecondition for a job that has not ended or that a live job waits
        for, and Unavailable while the index is out of reach, for it would bring the job back.
        """
        record = self._catalog.get(job)
        self._check(record)
        # What it made must not need its result any more, and what it did not make must be gone.
        self._publish(job)
        self._index.remove(job)
        self._ledger.delete(record.submission)
        # A round of the reconciler may have found it in the store in between.
        self._index.remove(job)

    def _check(self, record: JobRecord) -> None:
        if record.state not in TERMINAL or not self._settled(record.id):
            raise FailedPrecondition(
                f"job {record.id} has not ended: it is {record.state.value}",
                code="JOB_LIVE",
                field="id",
                remedy="cancel it, wait for it to end, then delete it",
            )
        waiting = [
            each.id for each in self._catalog.live() if record.id in each.submission.waits_for
        ]
        if waiting:
            raise in_use(
                f"job {waiting[0]} waits for job {record.id}",
                field="id",
                remedy="delete it when that job has begun, or cancel that job first",
            )

    def _settled(self, job: str) -> bool:
        """Whether the store says so too, or has forgotten the job."""
        return not self._ledger.exists(job) or self._ledger.result(job) is not None
