"""Runs one attempt of a job: claims it, starts its process, watches, and settles how it ended."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from saeserve.errors import ServiceError
from saeserve.jobs.decisions import worker_lost
from saeserve.jobs.errors import AttemptsExhausted, JobFinished, RecordUnreadable
from saeserve.jobs.events import EVENTS
from saeserve.jobs.record import Claim, Failure, JobRecord, Lease, Submission
from saeserve.platform.leftovers import remove_abandoned
from saeserve.platform.logging import of_job
from saeserve.platform.store_proof import read_marker
from saeserve.worker.child import Child
from saeserve.worker.event_relay import EventRelay
from saeserve.worker.failures import failure_of, stalled, unsaid
from saeserve.worker.job_log import last_words, log_of
from saeserve.worker.lease_keeper import LeaseKeeper, held
from saeserve.worker.metrics import WorkerMetrics
from saeserve.worker.order import ExitCode, JobOrder, command
from saeserve.worker.settings import WorkerSettings
from saeserve.worker.settlement import Ending, Settlement
from saeserve.worker.stall import StallBounds, StallWatch
from saeserve.worker.standby import Standby
from saeserve.worker.watching import POLL_S, Watched, watch

_log = logging.getLogger("saeserve.worker")
_DRAIN_MAY_FOLLOW_S = 1.0
_KEEPS_NOTHING = frozenset({"import_model", "export_model", "evaluate", "generate", "annotate"})
_NOTHING_KEPT_GRACE_S = 2.0


@dataclass(frozen=True)
class Supervisor:
    """One at a time; `drain` is set when the worker must end."""

    settings: WorkerSettings
    settlement: Settlement
    metrics: WorkerMetrics
    drain: threading.Event
    command: Callable[[JobOrder], Sequence[str]] = command
    kinds: Mapping[str, str] = field(default_factory=dict[str, str])
    """The machine kind of each resource class."""
    standby: Standby | None = None

    def run(self, record: JobRecord, owner: str) -> Ending:
        """Run the job that `owner` leased until it ends or this attempt does.

        Raises ServiceError or OSError when the store cannot be read or written; then nothing was
        committed and the lease is still held.
        """
        ending = self._run(record, owner)
        _log.info("%s: %s", record.id, ending)
        self.metrics.ended(ending)
        return ending

    def _run(self, record: JobRecord, owner: str) -> Ending:
        job, ledger = record.submission, self.settlement.ledger
        if (settled := self.settlement.settled(job.id)) is not None:
            return settled
        if ledger.cancel_requested(job.id):
            return self.settlement.cancel(job, ledger.highest_epoch(job.id), 0)
        try:
            with held(self.settlement.index, Lease(job=job.id, epoch=0, owner=owner), self._ttl_s):
                claim = ledger.claim(job.id, owner, time.time())
        except AttemptsExhausted:
            return self._exhausted(job)
        except JobFinished:
            return self._run(record, owner)
        except RecordUnreadable as error:
            return self.settlement.fail(job, record.epoch, failure_of(error, 0))
        _log.info("%s: attempt %d from step %d", job.id, claim.epoch, claim.resume_step)
        return self._attempt(job, claim)

    @property
    def _ttl_s(self) -> float:
        return self.settings.lease_seconds

    def _exhausted(self, job: Submission) -> Ending:
        epoch = self.settlement.ledger.highest_epoch(job.id)
        last = self.settlement.ledger.failure(job.id, epoch)
        return self.settlement.fail(job, epoch, last or worker_lost(job.max_attempts))

    def _attempt(self, job: Submission, claim: Claim) -> Ending:
        lease = Lease(job=claim.job, epoch=claim.epoch, owner=claim.owner)
        ledger, index = self.settlement.ledger, self.settlement.index
        with held(index, lease, self._ttl_s):
            relay = self._relay(job, claim)
        lease_keeper = LeaseKeeper(claim, ledger, index, relay, self._ttl_s)
        named = of_job(job.id, claim.epoch)
        with named, self.metrics.attempt(job, claim), lease_keeper as keeper:
            seen = self._watch(self._order(job, claim), keeper, relay)
            failure = self._failure(lease, seen)
            if failure is not None:
                self.metrics.failed(failure)
            if failure is not None and failure.retryable and not seen.cancelled:
                self._pause(keeper, claim.epoch)
        return self._settle(job, lease, seen, failure)

    def _relay(self, job: Submission, claim: Claim) -> EventRelay:
        ledger, index = self.settlement.ledger, self.settlement.index
        path = ledger.store.path(f"{ledger.attempt_key(claim.job, claim.epoch)}/{EVENTS}")
        earlier = partial(ledger.earlier_history, claim)
        relay = EventRelay(path, job, claim.resume_step, index, self.metrics, earlier)
        relay.hand_earlier()
        return relay

    def _order(self, job: Submission, claim: Claim) -> JobOrder:
        return JobOrder(
            claim=claim,
            store=self.settlement.ledger.store.root,
            store_id=read_marker(self.settlement.ledger.store.root) or "",
            roots=self.settings.roots,
            parent=os.getpid(),
            stop_grace_s=self._grace_s(job.kind),
            torch_threads=self.settings.threads,
            gpu_kernels=self.settings.gpu_kernels,
            log_level=self.settings.log_level,
            log_format=self.settings.log_format,
            machine=self.kinds.get(job.resource_class, ""),
        )

    def _grace_s(self, kind: str) -> float:
        """Jobs that keep nothing for a next attempt need no time to keep it: one that reads a
        large file, or compares it, is killed in the middle."""
        grace_s = self.settings.stop_grace_seconds
        return min(grace_s, _NOTHING_KEPT_GRACE_S) if kind in _KEEPS_NOTHING else grace_s

    def _watch(self, order: JobOrder, keeper: LeaseKeeper, relay: EventRelay) -> Watched:
        # Before the process starts: a store that does not answer may fail this.
        stall = self._stall(order, relay)
        child = self._child(order, keeper)
        with stall:
            code, stalled_s = watch(child, keeper, stall, self.drain)
        self._tidy(order.claim)
        relay.forward()
        step = relay.progress.step if relay.progress else order.claim.resume_step
        return Watched(code, child.stopping, keeper.cancelled.is_set(), stalled_s, step)

    def _tidy(self, claim: Claim) -> None:
        """Remove what a process that was killed had not finished writing. Nobody else writes in
        the attempt's folder; what cannot be removed now is left to the sweep of the store."""
        ledger = self.settlement.ledger
        try:
            remove_abandoned(ledger.store, ledger.attempt_key(claim.job, claim.epoch))
        except (OSError, ServiceError) as error:
            _log.warning("%s: temporaries of attempt %d stay: %s", claim.job, claim.epoch, error)

    def _stall(self, order: JobOrder, relay: EventRelay) -> StallWatch:
        bounds = StallBounds(self.settings.stall_factor, self.settings.stall_minimum_seconds)
        ledger, lease = self.settlement.ledger, order.lease
        return StallWatch(
            relay.folder,
            order.claim.epoch,
            bounds,
            relay,
            self.metrics,
            check_fence=lambda: ledger.check_fence(lease),
        )

    def _child(self, order: JobOrder, keeper: LeaseKeeper) -> Child:
        """The process that waits for a job, else a new one."""

        def give_up() -> bool:
            return self.drain.is_set() or keeper.cancelled.is_set() or keeper.lost.is_set()

        child = self.standby.take(order, give_up) if self.standby else None
        child = child or Child(self.command(order), order.stop_grace_s)
        _log.info("%s: runs in process %d", order.claim.job, child.pid)
        return child

    def _failure(self, lease: Lease, seen: Watched) -> Failure | None:
        """Why the attempt failed; None when it did not, or only stopped when asked to."""
        if seen.code in (None, ExitCode.FENCED, ExitCode.UNFIT):
            return None
        if self.settlement.ledger.result(lease.job):
            return None
        if (told := self.settlement.ledger.failure(lease.job, lease.epoch)) is not None:
            return told
        if seen.stalled_s and not seen.cancelled:
            return self._recorded(lease, stalled(seen.stalled_s, seen.step))
        if seen.asked_to_stop or self._drained_from_outside(seen):
            return None
        words = last_words(log_of(self.settlement.ledger.store, lease))
        return self._recorded(lease, unsaid(seen.code or 0, seen.step, words))

    def _recorded(self, lease: Lease, failure: Failure) -> Failure:
        try:
            self.settlement.ledger.write_failure(lease, failure)
        except ServiceError as error:
            if error.code != "DISK_FULL":
                raise
            # The attempt is given back without its error.json; the state's reason says the code.
            _log.warning("%s: %s is not recorded: %s", lease.job, failure.code, error.message)
        return failure

    def _drained_from_outside(self, seen: Watched) -> bool:
        """Whether something stopped this worker and its job process at the same time."""
        stopped = seen.code in (ExitCode.STOPPED, -signal.SIGTERM)
        return stopped and self.drain.wait(_DRAIN_MAY_FOLLOW_S)

    def _settle(
        self, job: Submission, lease: Lease, seen: Watched, failure: Failure | None
    ) -> Ending:
        if (settled := self.settlement.settled(job.id)) is not None:
            return settled
        fenced = self.settlement.ledger.superseded(lease.job, lease.epoch)
        if fenced or seen.code in (None, ExitCode.FENCED):
            return Ending.FENCED
        if seen.cancelled:
            return self.settlement.cancel(job, lease.epoch, seen.step)
        if seen.code == ExitCode.UNFIT:
            return self.settlement.unfit(job, lease)
        if failure is None:
            return self.settlement.drain(job, lease)
        if failure.retryable and not self.settlement.ledger.exhausted(job.id):
            return self.settlement.retry(job, lease, failure)
        return self.settlement.fail(job, lease.epoch, failure)

    def _pause(self, keeper: LeaseKeeper, attempts: int) -> None:
        """Let what failed recover (a disk, a device) while the lease is kept."""
        until = time.monotonic() + self.settings.retry_seconds * attempts
        while time.monotonic() < until and not keeper.lost.is_set():
            if keeper.cancelled.is_set() or self.drain.wait(POLL_S):
                return
