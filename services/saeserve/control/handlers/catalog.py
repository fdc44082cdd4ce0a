"""Jobs as they are known: by the index, and by the store where the index cannot tell."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from saeserve.errors import InvalidInput
from saeserve.jobs.errors import RecordUnreadable
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.jobs.record import JobFilter, JobRecord
from saeserve.jobs.states import TERMINAL, JobState

log = logging.getLogger(__name__)

LIVE = frozenset(JobState) - TERMINAL
_ID = re.compile(r"j-[0-9a-z]{20}")
_BATCH = 1000


class JobCatalog:
    """Reads jobs; goes on without the index."""

    def __init__(self, ledger: Ledger, index: JobIndex) -> None:
        self._ledger = ledger
        self._index = index

    def get(self, job: str, field: str = "id") -> JobRecord:
        """Return the job. Raises InvalidInput for a malformed id, NotFound."""
        checked_job_id(job, field)
        try:
            found = self._index.get(job)
        except IndexUnavailable as error:
            log.warning("job %s is read from the store: %s", job, error)
            found = None
        return self.resolved(found or self._ledger.record(job))

    def resolved(self, record: JobRecord) -> JobRecord:
        """`record` with what its worker has resolved, once its data set was READY."""
        submission = record.submission
        if not (submission.unresolved and record.epoch):
            return record
        try:
            found = self._ledger.resolution(record.id)
        except RecordUnreadable as error:
            log.warning("%s is shown as it was submitted: %s", record.id, error.text())
            return record
        if found is None:
            return record
        return record.model_copy(update={"submission": submission.resolved(found)})

    def page(self, wanted: JobFilter, size: int, after: str) -> tuple[list[JobRecord], str]:
        """Jobs that match, newest first, and the id that the next page comes after."""
        records, last = self._found(wanted, size, after)
        return [self.resolved(record) for record in records], last

    def live(self) -> Iterator[JobRecord]:
        """Every job that has not ended."""
        after = ""
        while True:
            records, after = self.page(JobFilter(states=LIVE), _BATCH, after)
            yield from records
            if not after:
                return

    def _found(self, wanted: JobFilter, size: int, after: str) -> tuple[list[JobRecord], str]:
        try:
            if self._index.generation() is not None:
                return self._index.page(wanted, size, after)
            log.warning("jobs are listed from the store: the index was emptied, and is rebuilt now")
        except IndexUnavailable as error:
            log.warning("jobs are listed from the store: %s", error)
        return self._page_from_store(wanted, size, after)

    def _page_from_store(
        self, wanted: JobFilter, size: int, after: str
    ) -> tuple[list[JobRecord], str]:
        found: list[JobRecord] = []
        for job in reversed(self._ledger.jobs()):
            if after and job >= after:
                continue
            record = self._ledger.record(job)
            if not wanted.matches(record):
                continue
            if len(found) == size:
                return found, found[-1].id
            found.append(record)
        return found, ""


def checked_job_id(job: str, field: str) -> str:
    """`job` when it has the form of an id; it becomes part of paths. Raises InvalidInput."""
    if not _ID.fullmatch(job):
        raise InvalidInput(
            f"{job!r} is not a job id",
            code="BAD_JOB_ID",
            field=field,
            remedy="use the id that SubmitJob gave",
        )
    return job
