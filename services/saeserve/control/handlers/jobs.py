"""Looking at jobs and cancelling them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from saeserve.control.handlers.catalog import JobCatalog
from saeserve.errors import FailedPrecondition, SaeserveError
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.jobs.record import JobRecord, Result
from saeserve.jobs.states import TERMINAL, JobState
from saeserve.jobs.telling import tell_end
from saeserve.registry.publication import Publication

log = logging.getLogger(__name__)


class Canceller:
    """Cancels jobs; the request is in the store before the index or a worker learns of it."""

    def __init__(
        self,
        ledger: Ledger,
        index: JobIndex,
        publication: Publication,
        etag: Callable[[JobRecord], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._index = index
        self._publication = publication
        self._catalog = JobCatalog(ledger, index)
        self._etag = etag
        self._clock = clock

    def cancel(self, job: str, etag: str = "") -> JobRecord:
        """Ask a job to stop; the job as it is then.

        Raises NotFound, and FailedPrecondition for a job that ended otherwise or has changed
        since `etag`.
        """
        record = self._catalog.get(job)
        if record.state is JobState.CANCELLED:
            return record
        self._check(record, etag)
        self._ledger.request_cancel(job)
        return self._catalog.resolved(self._tell(record))

    def _check(self, record: JobRecord, etag: str) -> None:
        if record.state in TERMINAL:
            raise FailedPrecondition(
                f"job {record.id} is {record.state.value}",
                code="JOB_ENDED",
                field="id",
                remedy="there is nothing to cancel",
            )
        if etag and etag != self._etag(record):
            raise FailedPrecondition(
                f"job {record.id} has changed since it had the etag {etag}",
                code="ETAG_MISMATCH",
                field="etag",
                remedy="look at the job again, then cancel with its new etag or with none",
            )

    def _tell(self, record: JobRecord) -> JobRecord:
        try:
            told = self._index.request_cancel(record.id)
        except IndexUnavailable as error:
            log.warning("the cancellation of %s waits for the reconciler: %s", record.id, error)
            return self._ledger.record(record.id)
        if told is None or told.owner_id or told.state in TERMINAL:
            return told or self._ledger.record(record.id)
        return self._settle(told)

    def _settle(self, record: JobRecord) -> JobRecord:
        """Nobody runs it: commit the result here, and give up what was reserved for it."""
        result = self._ledger.finish(
            Result(job=record.id, epoch=record.epoch, state=JobState.CANCELLED, time=self._clock())
        )
        self.give_up(record)
        try:
            tell_end(self._ledger, self._index, result)
        except IndexUnavailable as error:
            log.warning("the end of %s waits for the reconciler: %s", record.id, error)
            return self._ledger.record(record.id)
        return self._catalog.get(record.id)

    def give_up(self, ended: JobRecord) -> None:
        """Publish what an ended job made, and release what it reserved."""
        try:
            self._publication.apply(ended.id)
        except (OSError, SaeserveError):
            log.exception("%s: its outputs are not published yet; readers will do it", ended.id)
