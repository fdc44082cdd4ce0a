"""Commits how an attempt ended: to the store, which decides, then to the index."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from enum import StrEnum

from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import Doorbell, IndexUnavailable, JobIndex
from saeserve.jobs.record import Failure, Lease, Result, Submission
from saeserve.jobs.states import JobState
from saeserve.jobs.telling import tell_end
from saeserve.platform.startup_errors import NO_DEVICE
from saeserve.registry.publication import Publication

_log = logging.getLogger("saeserve.worker")


class Ending(StrEnum):
    """How an attempt ended; the label of `saeserve_attempts_total`."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    DRAINED = "drained"
    FENCED = "fenced"
    UNFIT = "unfit"
    """Given back, because this worker has lost the device that the job needs."""


@dataclass(frozen=True)
class Settlement:
    """What every attempt ends with, whatever became of its process."""

    ledger: Ledger
    index: JobIndex
    doorbell: Doorbell
    publication: Publication

    def settled(self, job: str) -> Ending | None:
        """Tell the index of the result that the store already holds; None when it holds none."""
        result = self.ledger.result(job)
        return None if result is None else self._tell(result)

    def cancel(self, job: Submission, epoch: int, steps: int) -> Ending:
        """Make the job CANCELLED, unless it had a result already."""
        return self._commit(job.id, epoch, JobState.CANCELLED, None, steps)

    def fail(self, job: Submission, epoch: int, failure: Failure) -> Ending:
        """Make the job FAILED, unless it had a result already."""
        return self._commit(job.id, epoch, JobState.FAILED, failure, failure.step)

    def retry(self, job: Submission, lease: Lease, failure: Failure) -> Ending:
        """Give the job back to the queue; the attempt stays charged."""
        _log.warning("%s: attempt %d: %s", job.id, lease.epoch, failure.message)
        self._release(lease, failure.code)
        return Ending.RETRIED

    def unfit(self, job: Submission, lease: Lease) -> Ending:
        """Give the job back because this worker cannot run it; that costs the job no attempt."""
        self._give_back(job, lease, NO_DEVICE)
        return Ending.UNFIT

    def drain(self, job: Submission, lease: Lease) -> Ending:
        """Give the job back because this worker ends; that costs the job no attempt."""
        self._give_back(job, lease, "DRAINED")
        return Ending.DRAINED

    def _give_back(self, job: Submission, lease: Lease, reason: str) -> None:
        self.ledger.mark_released(lease)
        self._release(lease, reason)
        try:
            self.doorbell.ring(job.resource_class)
        except IndexUnavailable as error:
            _log.warning("%s: no worker was rung: %s; the reconciler will", job.id, error)

    def _commit(
        self, job: str, epoch: int, state: JobState, failure: Failure | None, steps: int
    ) -> Ending:
        result = Result(
            job=job, epoch=epoch, state=state, failure=failure, steps=steps, time=time.time()
        )
        return self._tell(self.ledger.finish(result))

    def _tell(self, result: Result) -> Ending:
        self.publication.apply(result.job)
        try:
            tell_end(self.ledger, self.index, result)
        except IndexUnavailable as error:
            text = "%s: %s is committed, but the index could not be updated: %s"
            _log.warning(text, result.job, result.state, error)
        return Ending(result.state.lower())

    def _release(self, lease: Lease, reason: str) -> None:
        try:
            self.index.release(lease, reason)
        except IndexUnavailable as error:
            _log.warning("%s: not given back (%s); its lease runs out instead", lease.job, error)
