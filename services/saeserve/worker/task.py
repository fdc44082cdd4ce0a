"""The Celery task: a ring says that a class may have jobs; the worker takes them one by one."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from celery import Celery

from saeserve.errors import SaeError, Unavailable
from saeserve.jobs.doorbell import RING
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.jobs.record import JobRecord, Lease
from saeserve.worker.backoff import Backoff
from saeserve.worker.failures import explains_itself, failure_of
from saeserve.worker.settlement import Ending
from saeserve.worker.supervisor import Supervisor

_log = logging.getLogger("saeserve.worker")
_FAILED = "WORKER_FAILED"
"""Why a job was given back where no code says more: its worker failed."""


@dataclass(frozen=True)
class JobTaker:
    """Leases and runs jobs while there are any and the worker is not draining."""

    index: JobIndex
    supervisor: Supervisor
    lease_seconds: float
    drain: threading.Event
    end_worker: Callable[[], None] = lambda: None
    """Called once when a job showed that this worker has lost the device of its class."""
    unfit: threading.Event = field(default_factory=threading.Event)
    """Set then: the worker takes nothing more."""
    backoff: Backoff = field(default_factory=Backoff)
    """How long nothing is taken after the store failed."""
    admit: Callable[[], None] = lambda: None
    """Raises Unavailable while the artifact store is not there: then no job is taken."""

    def take(self, resource_class: str) -> int:
        """Run every runnable job of the class; how many attempts were run."""
        ran = 0
        while not self._stopping() and self._take_one(resource_class):
            ran += 1
        return ran

    def _stopping(self) -> bool:
        return self.drain.is_set() or self.unfit.is_set()

    def _take_one(self, resource_class: str) -> bool:
        owner = uuid.uuid4().hex
        try:
            self.admit()
            record = self.index.acquire(resource_class, owner, self.lease_seconds)
        except Unavailable as error:
            _log.warning("no job taken: %s; the reconciler rings again", error)
            return False
        return record is not None and self._run(record, owner)

    def _run(self, record: JobRecord, owner: str) -> bool:
        """False when the store or this machine failed: then this ring is over, after a pause.
        Whoever reaches the store takes the job meanwhile; without the pause, all would take and
        drop it in turns."""
        try:
            if self.supervisor.run(record, owner) is Ending.UNFIT:
                self.unfit.set()
                self.end_worker()
        except Exception as error:
            # Of any class: a lease that nobody keeps would leave the job STARTING until it ran out,
            # again and again. An OSError or ServiceError of the store is what mostly comes.
            self._give_back(record.id, owner, _why(record.id, error))
            self.drain.wait(self.backoff.failed())
            return False
        self.backoff.succeeded()
        return True

    def _give_back(self, job: str, owner: str, why: str) -> None:
        """Release the lease, whether the attempt has begun or not."""
        try:
            if not self.index.release(Lease(job=job, epoch=0, owner=owner), why):
                known = self.index.get(job)
                epoch = known.epoch if known else 0
                self.index.release(Lease(job=job, epoch=epoch, owner=owner), why)
        except IndexUnavailable as error:
            _log.warning("%s: not given back (%s); its lease runs out instead", job, error)


def _why(job: str, error: Exception) -> str:
    """Code of what failed here, which the job's submitter reads; the log has the rest."""
    failure = failure_of(error, 0)
    trace = None if explains_itself(failure) else error
    _log.error("%s: given back: %s", job, failure.message, exc_info=trace)
    return _FAILED if failure.code == SaeError.code else failure.code


def register(app: Celery, taker: JobTaker) -> None:
    """Make `app` answer rings by `taker`."""

    def ring(resource_class: str) -> None:
        taker.take(resource_class)

    # A pool thread looks tasks up in the default app; `shared` would add ours to every app.
    app.set_default()
    app.task(name=RING, ignore_result=True, shared=False)(ring)
