"""What the reconciler decides about one job. Decisions go to the store, then to the index."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum

from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import JobIndex
from saeserve.jobs.record import Failure, JobRecord, Result
from saeserve.jobs.states import LEASED, TERMINAL, JobState
from saeserve.jobs.telling import tell_end

_log = logging.getLogger("saeserve.jobs.reconciler")


JOB_LOST = "JOB_LOST"
MISSING_FOR_S = 20.0
"""A job must be missing from the store for this long before it is given up."""


class Decision(StrEnum):
    """What was done about a job."""

    NOTHING = "nothing"
    APPLIED = "applied"
    """A result that the store held was applied to the index."""
    CANCELLED = "cancelled"
    PROMOTED = "promoted"
    """BLOCKED became QUEUED."""
    FAILED = "failed"


class Decisions:
    """Decides about single jobs; `now` gives seconds since the epoch, and `publish` makes what
    a job's result names be seen, before the result is applied to the index."""

    def __init__(
        self,
        ledger: Ledger,
        index: JobIndex,
        now: Callable[[], float],
        publish: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._index = index
        self._now = now
        self._publish = publish
        self._missing: dict[str, float] = {}

    def decide(self, record: JobRecord) -> Decision:
        """Bring one job on, as far as the store allows. `record` is what the index says."""
        if record.state in TERMINAL:
            return Decision.NOTHING
        if not self._ledger.exists(record.id):
            return self._forget(record)
        self._missing.pop(record.id, None)
        result = self._ledger.result(record.id)
        if result is not None:
            self._tell(result)
            return Decision.APPLIED
        if self._ledger.cancel_requested(record.id):
            return self._cancel(record)
        if record.state is JobState.BLOCKED:
            return self._unblock(record)
        if record.state is JobState.QUEUED:
            return self._give_up(record)
        return Decision.NOTHING

    def settle(self, job: str) -> Decision:
        """Commit the cancellation of a job that nobody runs; an earlier result wins."""
        if not self._ledger.exists(job):
            record = self._index.get(job)
            return Decision.NOTHING if record is None else self._forget(record)
        return self._commit(job, JobState.CANCELLED, None)

    def _cancel(self, record: JobRecord) -> Decision:
        if record.state in LEASED and record.owner_id:
            if record.state is JobState.CANCELLING:
                return Decision.NOTHING
            self._index.request_cancel(record.id)
            return Decision.CANCELLED
        # Should a worker lease it this moment, its claim or its first beat tells it to stop.
        return self._commit(record.id, JobState.CANCELLED, None)

    def _unblock(self, record: JobRecord) -> Decision:
        unmet = self._ledger.unmet(record.submission)
        for job in unmet:
            failure = self._broken(job)
            if failure is not None:
                return self._commit(record.id, JobState.FAILED, failure)
        if unmet:
            return Decision.NOTHING
        return Decision.PROMOTED if self._index.unblock(record.id) else Decision.NOTHING

    def _broken(self, dependency: str) -> Failure | None:
        """Why a job that waits for `dependency` can never run; None while it may."""
        if not self._ledger.exists(dependency):
            return _dependency_failed(dependency, "does not exist", "")
        result = self._ledger.result(dependency)
        if result is None or result.state is JobState.SUCCEEDED:
            return None
        cause = result.failure.message if result.failure else ""
        return _dependency_failed(dependency, f"is {result.state}", cause)

    def _give_up(self, record: JobRecord) -> Decision:
        if not self._ledger.exhausted(record.id):
            return Decision.NOTHING
        # A worker may have taken the last attempt while the store was read: then the revision
        # has moved, and the attempt that exhausts the job is running.
        if self._index.get(record.id) != record:
            return Decision.NOTHING
        return self._commit(record.id, JobState.FAILED, self._last_failure(record))

    def _last_failure(self, record: JobRecord) -> Failure:
        left = self._ledger.failure(record.id, self._ledger.highest_epoch(record.id))
        if left is not None:
            return left
        return worker_lost(record.submission.max_attempts, record.progress.step)

    def _commit(self, job: str, state: JobState, failure: Failure | None) -> Decision:
        epoch = self._ledger.highest_epoch(job)
        wanted = Result(job=job, epoch=epoch, state=state, failure=failure, time=self._now())
        winner = self._ledger.finish(wanted)
        self._tell(winner)
        if winner.state is not state:
            return Decision.APPLIED
        return Decision.CANCELLED if state is JobState.CANCELLED else Decision.FAILED

    def _tell(self, result: Result) -> None:
        self._publish(result.job)
        tell_end(self._ledger, self._index, result)

    def _forget(self, record: JobRecord) -> Decision:
        """The store was restored to an earlier state: nothing is left that could be run.

        The store has proved that it is the store, or reading it had raised Unavailable. Still the
        job must be missing for a while: what a network file system shows may be old.
        """
        if record.id not in self._missing:
            _log.warning("%s is in the index but not in the store", record.id)
            self._missing[record.id] = self._now()
        if self._now() - self._missing[record.id] < MISSING_FOR_S:
            return Decision.NOTHING
        _log.error("%s is in the index but not in the store; it is FAILED", record.id)
        del self._missing[record.id]
        failure = Failure(
            code=JOB_LOST,
            message=f"the artifact store does not hold job {record.id}",
            remedy="restore the store, or submit the job again",
        )
        return self._commit(record.id, JobState.FAILED, failure)


def worker_lost(attempts: int, step: int = 0) -> Failure:
    """The failure of a job whose every attempt ended without leaving a reason."""
    return Failure(
        code="WORKER_LOST",
        message=f"the worker was lost in each of {attempts} attempts",
        cause="the job process was killed, ran out of memory, or its machine went away",
        remedy="read the workers' logs, then submit the job again",
        retryable=True,
        step=step,
    )


def _dependency_failed(job: str, what: str, cause: str) -> Failure:
    return Failure(
        code="DEPENDENCY_FAILED",
        message=f"job {job}, which this one waits for, {what}",
        cause=cause,
        remedy=f"get job {job} to succeed under a new id, then submit this one to wait for that",
    )
