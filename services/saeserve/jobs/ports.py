"""What control and worker ask of the index and of the queue; Redis and the fake both answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from saeserve.core.planning.machine import Machine
from saeserve.jobs.errors import IndexUnavailable
from saeserve.jobs.leases import HeldLease, Leadership
from saeserve.jobs.queue import ClassQueue
from saeserve.jobs.record import (
    Beat,
    Event,
    Failure,
    JobFilter,
    JobRecord,
    Lease,
    NumberedEvent,
    Output,
    Progress,
)
from saeserve.jobs.states import JobState

__all__ = ["Doorbell", "IndexUnavailable", "JobFilter", "JobIndex"]


class JobIndex(Protocol):
    """The index of jobs. Every call may raise IndexUnavailable; every move is atomic and fenced.

    A move also adds its own `state_changed` event {state, reason} to the job's stream, so that
    watchers see states and other events in one order. Nobody else appends `state_changed`.
    """

    def put(
        self,
        record: JobRecord,
        history: Sequence[Event] = (),
        lease_ttl_s: float = 60.0,
        left_out: int = 0,
    ) -> bool:
        """Add a job, at submit or rebuild; False (and no change) when it is known already.

        `history` starts its stream, after `left_out` events that only the store holds: their
        numbers are skipped, so that a watch shows a gap. A record in a leased state gets a lease
        of `lease_ttl_s` for its `owner_id`, so that a worker that still runs it just goes on.
        """
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
        running jobs of the class, then age): QUEUED becomes STARTING. None when there is none.

        The same `owner` token gets the same job again until that job has started, so that a
        repeated call (a lost answer) cannot take two.
        """
        ...

    def start(self, lease: Lease, charged: bool) -> bool:
        """Record the epoch claimed in the store: STARTING becomes RUNNING. False when fenced."""
        ...

    def beat(self, lease: Lease, ttl_s: float, progress: Progress | None) -> Beat:
        """Renew the lease and record progress; says if it is fenced or a cancel is requested."""
        ...

    def remove(self, job: str) -> bool:
        """Forget a job that has ended, and its events; False for one that is unknown or live."""
        ...

    def release(self, lease: Lease, reason: str) -> bool:
        """Give a leased job back: it becomes QUEUED, or unsettled when cancelling. False when
        fenced.

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
        progress: Progress | None = None,
    ) -> bool:
        """Make a job terminal as its committed result says, with its final `progress` (None leaves
        the last); False when it was already.

        Not fenced by owner: `jobs/<id>/result.json` has decided, this only tells the index.
        Called by `telling.tell_end`, which appends the job's events first.
        """
        ...

    def request_cancel(self, job: str) -> JobRecord | None:
        """A live job becomes CANCELLING; the job then, or None when it is unknown.

        One that is leased hears of it by its beat. One that nobody runs is in `unsettled` until
        `finish`: only a committed result makes a job terminal.
        """
        ...

    def unsettled(self) -> list[str]:
        """CANCELLING jobs that nobody runs. Whoever cancels commits the result and calls
        `finish`; the reconciler does what is left."""
        ...

    def counts(self) -> dict[JobState, int]:
        """Jobs in each state; states without jobs are left out."""
        ...

    def tally(self, states: Iterable[JobState]) -> dict[tuple[JobState, str], int]:
        """Jobs in each of `states` by resource class, where there are any. Slower than `counts`:
        it looks at every such job."""
        ...

    def unblock(self, job: str) -> bool:
        """BLOCKED becomes QUEUED; False when it was not BLOCKED."""
        ...

    def leases(self) -> list[HeldLease]:
        """All leases that are held. Nothing here ends them: whoever finds one silent for longer
        than its `ttl_s`, by a clock of its own, passes it to `expire`."""
        ...

    def expire(self, silent: Sequence[HeldLease]) -> list[JobRecord]:
        """Put the jobs of these leases back in QUEUED, or unsettled when cancelling, unless they
        were renewed since, and return them as they are now (not again when a lost answer makes
        the client repeat the call)."""
        ...

    def append(self, job: str, event: Event, after: int = -1) -> bool:
        """Number an event into the job's stream; False when (epoch, op) or a later op of the
        epoch is there already, or the job is unknown (the rebuild reads the store). Of what the
        worker wrote, whose ops count downwards, a lower one is the later.

        `after` is the op that this epoch's events were handed over to before. Raises
        EventsMissing when the index has lost it: then all events must come again.
        """
        ...

    def told(self, job: str) -> dict[int, int]:
        """Highest op here of each epoch whose job process wrote any; {} for an unknown job."""
        ...

    def events(self, job: str, after: int, limit: int) -> list[NumberedEvent]:
        """Events with a sequence above `after`, oldest first. A first sequence above after + 1
        shows a gap: the stream was trimmed. Sequences restart when `generation` changes."""
        ...

    def runnable(self) -> dict[str, int]:
        """QUEUED jobs of each resource class that has any."""
        ...

    def queue(self, resource_class: str) -> ClassQueue:
        """The queue of a class: its live workers, and its jobs in the order of their turns."""
        ...

    def lead(self, name: str, owner: str, silent: Leadership | None = None) -> Leadership:
        """Take or keep the leadership `name`, and say who holds it. Another's is only taken when
        it still stands as in `silent`, which the caller has found silent for too long."""
        ...

    def announce(self, resource_class: str, worker: str, machine: Machine, ttl_s: float) -> None:
        """Announce that `worker` takes jobs of a class on this machine; forgotten after `ttl_s`
        unless announced again. Says nothing about leases."""
        ...

    def machines(self, resource_class: str) -> list[Machine]:
        """Machines of the class whose workers were heard of lately, by the workers' names."""
        ...

    def last_sequence(self, job: str) -> int:
        """The highest sequence that an event of the job has had here, also when its events are
        gone; 0 when there was none."""
        ...

    def expire_events(self, jobs: Sequence[str]) -> int:
        """Let the events of those jobs that ended expire, where an older release put them here to
        stay; how many that were. Events put here since do so by themselves."""
        ...

    def store(self) -> str | None:
        """Id of the artifact store that the jobs here belong to; None while none was set."""
        ...

    def set_store(self, id: str) -> None:
        """Bind the jobs here to an artifact store, as `store` reads it."""
        ...

    def generation(self) -> str | None:
        """A mark that dies with the index's data; None says: rebuild from the store.

        It also changes when another server process answers, as that one may have lost the last
        writes: numbers of events may then have been handed out twice.
        """
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
