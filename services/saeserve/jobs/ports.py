"""What control and worker ask of the index and of the queue; Redis and the fake both answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from saeserve.jobs.record import (
    Beat,
    Event,
    Failure,
    JobRecord,
    Lease,
    NumberedEvent,
    Output,
    Progress,
)
from saeserve.jobs.states import JobState


class IndexUnavailable(Exception):
    """The index (Redis) is out of reach. Callers go on by the store or answer UNAVAILABLE."""


class JobFilter(Protocol):
    """Typed filter of a listing; empty fields match all."""

    states: frozenset[JobState]
    kinds: frozenset[str]
    owner: str
    labels: dict[str, str]


class JobIndex(Protocol):
    """The index of jobs. Every call may raise IndexUnavailable; every move is atomic and fenced."""

    def put(self, record: JobRecord) -> bool:
        """Add a job, at submit or rebuild; False (and no change) when it is known already."""
        ...

    def get(self, job: str) -> JobRecord | None:
        """The job, or None when the index does not know it."""
        ...

    def ids(self) -> list[str]:
        """Ids of all jobs, newest first."""
        ...

    def page(self, wanted: JobFilter, size: int, after: str) -> tuple[list[JobRecord], str]:
        """Jobs that match, newest first, and the token of the next page ("" at the end)."""
        ...

    def acquire(self, resource_class: str, owner: str, ttl_s: float) -> JobRecord | None:
        """Lease the next runnable job of a class (priority, then the owner with the fewest
        running jobs, then age): QUEUED becomes STARTING. None when there is none."""
        ...

    def start(self, lease: Lease, charged: bool) -> bool:
        """Record the epoch claimed in the store: STARTING becomes RUNNING. False when fenced."""
        ...

    def beat(self, lease: Lease, ttl_s: float, progress: Progress | None) -> Beat:
        """Renew the lease, leave progress, learn what is wished."""
        ...

    def release(self, lease: Lease, reason: str) -> bool:
        """Give a leased job back: it becomes QUEUED (CANCELLED when cancelling). False when fenced.

        A lease from `acquire` that has not started yet has epoch 0.
        """
        ...

    def finish(
        self,
        job: str,
        epoch: int,
        state: JobState,
        outputs: Sequence[Output],
        failure: Failure | None,
    ) -> bool:
        """Make a job terminal as its committed result says; False when it was already.

        Not fenced by owner: `jobs/<id>/result.json` has decided, this only tells the index.
        """
        ...

    def request_cancel(self, job: str) -> JobRecord | None:
        """BLOCKED or QUEUED becomes CANCELLED, a leased state CANCELLING; others stay."""
        ...

    def unblock(self, job: str) -> bool:
        """BLOCKED becomes QUEUED; False when it was not BLOCKED."""
        ...

    def expire(self, now_slack_s: float) -> list[JobRecord]:
        """Put every job whose lease ran out (by the server's clock, plus slack) back in QUEUED,
        or CANCELLED when cancelling, and return them as they are now."""
        ...

    def append(self, job: str, event: Event) -> bool:
        """Number an event into the job's stream; False when (epoch, op) is there already."""
        ...

    def events(self, job: str, after: int, limit: int) -> list[NumberedEvent]:
        """Events with a sequence above `after`, oldest first. A first sequence above after + 1
        tells a gap: the stream was trimmed."""
        ...

    def runnable(self) -> dict[str, int]:
        """QUEUED jobs of each resource class that has any."""
        ...

    def lead(self, name: str, owner: str, ttl_s: float) -> bool:
        """Take or keep the leadership `name`; True for the one owner that holds it."""
        ...

    def generation(self) -> str | None:
        """A mark that dies with the index's data; None says: rebuild from the store."""
        ...

    def set_generation(self, mark: str) -> None:
        """Set the mark, after a rebuild."""
        ...


class Doorbell(Protocol):
    """The queue of doorbells (Celery). A ring is a hint: it may be lost or come twice."""

    def ring(self, resource_class: str) -> None:
        """Wake a worker of the class. Raises IndexUnavailable when the broker is out of reach."""
        ...

    def waiting(self, resource_class: str) -> int:
        """Rings not yet delivered."""
        ...
