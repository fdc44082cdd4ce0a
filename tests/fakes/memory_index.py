"""The job index in memory, with a clock of one's own: the model that the Redis one must equal."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from tests.fakes.memory_jobs import Entry, JobTable

from saeserve.core.planning.machine import Machine
from saeserve.jobs.errors import IndexUnavailable
from saeserve.jobs.large_specs import indexed
from saeserve.jobs.leases import HeldLease, Leadership
from saeserve.jobs.queue import ClassQueue, Queued, in_turn
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
from saeserve.jobs.redis_index import KEPT_EVENTS_S
from saeserve.jobs.states import LEASED, TERMINAL, JobState

_S = JobState


class MemoryIndex:
    """Implements `ports.JobIndex`. `clock` gives seconds; `down` makes every call fail."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        stream_length: int = 10_000,
        events_s: float = KEPT_EVENTS_S,
    ) -> None:
        self.down = False
        self._clock = clock
        self._stream_length = stream_length
        self._lock = threading.RLock()
        self._jobs = JobTable(clock, stream_length, events_s)
        self._offers: dict[tuple[str, str], str] = {}
        self._leaders: dict[str, Leadership] = {}
        self._machines: dict[tuple[str, str], tuple[Machine, float]] = {}
        self._generation: str | None = None
        self._store: str | None = None

    def forget(self) -> None:
        """Lose all data, as a broker that starts empty."""
        with self._lock:
            self._jobs.entries.clear()
            self._offers.clear()
            self._jobs.unsettled.clear()
            self._leaders.clear()
            self._machines.clear()
            self._generation = None
            self._store = None

    def lose_events(self, job: str, count: int) -> None:
        """Lose the job's last events, as a server that restarts without its last writes."""
        with self._lock:
            entry = self._jobs.entries[job]
            entry.lose(count)

    def drop_events(self, job: str) -> None:
        """Lose the job's events to their age."""
        with self._lock:
            self._jobs.entries[job].stream.clear()

    def put(
        self,
        record: JobRecord,
        history: Sequence[Event] = (),
        lease_ttl_s: float = 60.0,
        left_out: int = 0,
    ) -> bool:
        with self._reached():
            if record.id in self._jobs.entries:
                return False
            record = indexed(record)
            leased = record.state in LEASED
            entry = Entry(record, settled=record.state in TERMINAL)
            entry.lease_epoch = record.epoch if leased else 0
            self._jobs.entries[record.id] = entry
            kept = history[-self._stream_length :]
            entry.last_sequence = left_out + len(history) - len(kept)
            for event in kept:
                entry.mark(event)
                self._jobs.number(entry, event)
            if leased:
                self._jobs.renew(entry, lease_ttl_s)
            self._jobs.note(entry)
            return True

    def get(self, job: str) -> JobRecord | None:
        with self._reached():
            entry = self._jobs.entries.get(job)
            return entry.record if entry else None

    def ids(self) -> list[str]:
        with self._reached():
            return sorted(self._jobs.entries, reverse=True)

    def page(self, wanted: JobFilter, size: int, after: str) -> tuple[list[JobRecord], str]:
        with self._reached():
            older = (job for job in self.ids() if not after or job < after)
            records = (self._jobs.entries[job].record for job in older)
            found = [record for record in records if wanted.matches(record)]
            return found[:size], found[size - 1].id if len(found) > size else ""

    def acquire(self, resource_class: str, owner: str, ttl_s: float) -> JobRecord | None:
        with self._reached():
            entry = self._offered(resource_class, owner)
            if entry is None:
                entry = min(self._jobs.queued(resource_class), key=self._jobs.turn, default=None)
                if entry is None:
                    return None
                self._jobs.move(entry, _S.STARTING)
                self._offers[resource_class, owner] = entry.record.id
                entry.lease_epoch = 0
            self._jobs.change(entry, owner_id=owner)
            self._jobs.renew(entry, ttl_s)
            return entry.record

    def start(self, lease: Lease, charged: bool) -> bool:
        with self._reached():
            entry = self._jobs.entries.get(lease.job)
            if entry is None or lease.epoch < 1 or not entry.holds(lease):
                return False
            if entry.lease_epoch == lease.epoch:
                return True
            entry.lease_epoch = lease.epoch
            record = entry.record
            self._jobs.change(
                entry,
                epoch=lease.epoch,
                attempt=record.attempt + charged,
                started=record.started or self._clock(),
            )
            if record.state is _S.STARTING:
                self._jobs.move(entry, _S.RUNNING)
            return True

    def remove(self, job: str) -> bool:
        with self._reached():
            entry = self._jobs.entries.get(job)
            if entry is None or entry.record.state not in TERMINAL:
                return False
            del self._jobs.entries[job]
            self._jobs.unsettled.discard(job)
            return True

    def beat(self, lease: Lease, ttl_s: float, progress: Progress | None) -> Beat:
        with self._reached():
            entry = self._jobs.entries.get(lease.job)
            if entry is None:
                return Beat.UNKNOWN
            if not entry.holds(lease):
                return Beat.FENCED
            self._jobs.renew(entry, ttl_s)
            if progress:
                self._jobs.change(entry, progress=progress)
            return Beat.CANCEL if entry.record.state is _S.CANCELLING else Beat.OK

    def release(self, lease: Lease, reason: str) -> bool:
        with self._reached():
            entry = self._jobs.entries.get(lease.job)
            if entry is None:
                return False
            if not entry.holds(lease):
                return entry.left == (lease.owner, lease.epoch)
            self._jobs.give_back(entry, _S.QUEUED, reason)
            entry.left = (lease.owner, lease.epoch)
            return True

    def finish(
        self,
        job: str,
        epoch: int,
        state: JobState,
        outputs: Sequence[Output],
        failure: Failure | None,
        progress: Progress | None = None,
    ) -> bool:
        with self._reached():
            entry = self._jobs.entries.get(job)
            if entry is None or entry.settled:
                return False
            self._jobs.change(entry, progress=progress or entry.record.progress)
            reason = failure.code if failure else ""
            before = entry.record.state
            self._jobs.approach(entry, state, reason)
            entry.settled = True
            self._jobs.unsettled.discard(job)
            self._jobs.change(
                entry,
                outputs=tuple(outputs),
                failure=failure,
                epoch=max(epoch, entry.record.epoch),
            )
            if before is state:
                return False
            self._jobs.move(entry, state, reason)
            return True

    def request_cancel(self, job: str) -> JobRecord | None:
        with self._reached():
            entry = self._jobs.entries.get(job)
            if entry is None:
                return None
            reason = "cancelled on request"
            if entry.record.state in (_S.BLOCKED, _S.QUEUED, _S.PAUSED):
                self._jobs.cancel(entry, reason)
            elif entry.record.state in (_S.STARTING, _S.RUNNING, _S.PAUSING):
                self._jobs.move(entry, _S.CANCELLING, reason)
            return entry.record

    def unsettled(self) -> list[str]:
        with self._reached():
            return sorted(self._jobs.unsettled)

    def counts(self) -> dict[JobState, int]:
        with self._reached():
            counts: dict[JobState, int] = defaultdict(int)
            for entry in self._jobs.entries.values():
                counts[entry.record.state] += 1
            return dict(counts)

    def tally(self, states: Iterable[JobState]) -> dict[tuple[JobState, str], int]:
        with self._reached():
            records = [entry.record for entry in self._jobs.entries.values()]
            found = [each for each in records if each.state in set(states)]
            return dict(Counter((each.state, each.submission.resource_class) for each in found))

    def unblock(self, job: str) -> bool:
        with self._reached():
            entry = self._jobs.entries.get(job)
            if entry is None or entry.record.state is not _S.BLOCKED:
                return False
            self._jobs.move(entry, _S.QUEUED)
            return True

    def leases(self) -> list[HeldLease]:
        with self._reached():
            return [
                HeldLease(
                    job=entry.record.id, mark=str(entry.record.beats), ttl_s=entry.lease_ttl_s
                )
                for entry in self._jobs.entries.values()
                if entry.record.owner_id
            ]

    def expire(self, silent: Sequence[HeldLease]) -> list[JobRecord]:
        with self._reached():
            standing = {each.job: each.mark for each in self.leases()}
            lost = [self._jobs.entries[x.job] for x in silent if standing.get(x.job) == x.mark]
            for entry in lost:
                pausing = entry.record.state is _S.PAUSING
                self._jobs.give_back(entry, _S.PAUSED if pausing else _S.QUEUED, "lease expired")
            return [entry.record for entry in lost]

    def append(self, job: str, event: Event, after: int = -1) -> bool:
        with self._reached():
            entry = self._jobs.entries.get(job)
            if entry is None:
                return False
            return self._jobs.append(entry, event, after)

    def told(self, job: str) -> dict[int, int]:
        with self._reached():
            entry = self._jobs.entries.get(job)
            return dict(entry.highest_op) if entry else {}

    def last_sequence(self, job: str) -> int:
        with self._reached():
            entry = self._jobs.entries.get(job)
            return entry.last_sequence if entry else 0

    def expire_events(self, jobs: Sequence[str]) -> int:
        with self._reached():
            return 0

    def events(self, job: str, after: int, limit: int) -> list[NumberedEvent]:
        with self._reached():
            entry = self._jobs.entries.get(job)
            if entry and entry.stream_ends <= self._clock():
                entry.stream.clear()
            stream = entry.stream if entry else []
            return [event for event in stream if event.sequence > after][:limit]

    def runnable(self) -> dict[str, int]:
        with self._reached():
            counts: dict[str, int] = defaultdict(int)
            for entry in self._jobs.entries.values():
                if entry.record.state is _S.QUEUED:
                    counts[entry.record.submission.resource_class] += 1
            return dict(counts)

    def queue(self, resource_class: str) -> ClassQueue:
        with self._reached():
            queued = list(self._jobs.queued(resource_class))
            submitters = sorted({entry.record.submission.owner for entry in queued})
            turns = ((entry, self._jobs.turn(entry)) for entry in queued)
            return ClassQueue(
                workers=len(self.machines(resource_class)),
                queued=len(queued),
                order=in_turn(
                    Queued(
                        job=job,
                        rank=rank,
                        submitter=submitters.index(entry.record.submission.owner),
                        running=running,
                    )
                    for entry, (rank, running, job) in turns
                ),
            )

    def lead(self, name: str, owner: str, silent: Leadership | None = None) -> Leadership:
        with self._reached():
            found = self._leaders.get(name, Leadership(holder=owner, mark="0"))
            if found.holder == owner or found == silent:
                found = Leadership(holder=owner, mark=str(int(found.mark) + 1))
                self._leaders[name] = found
            return found

    def announce(self, resource_class: str, worker: str, machine: Machine, ttl_s: float) -> None:
        with self._reached():
            self._machines[resource_class, worker] = (machine, self._clock() + ttl_s)

    def machines(self, resource_class: str) -> list[Machine]:
        with self._reached():
            return [
                machine
                for (name, _), (machine, ends) in sorted(
                    self._machines.items(), key=lambda item: item[0]
                )
                if name == resource_class and ends > self._clock()
            ]

    def store(self) -> str | None:
        with self._reached():
            return self._store

    def set_store(self, id: str) -> None:
        with self._reached():
            self._store = id

    def generation(self) -> str | None:
        with self._reached():
            return self._generation

    def set_generation(self, mark: str) -> None:
        with self._reached():
            self._generation = mark

    def _reached(self) -> threading.RLock:
        if self.down:
            raise IndexUnavailable("the index is switched off")
        return self._lock

    def _offered(self, resource_class: str, owner: str) -> Entry | None:
        entry = self._jobs.entries.get(self._offers.get((resource_class, owner), ""))
        if entry is None or entry.record.state is not _S.STARTING:
            return None
        return entry if entry.record.owner_id == owner else None
