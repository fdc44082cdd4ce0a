"""The jobs of the index in memory: their states, and the events that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from saeserve.jobs.errors import EventsMissing
from saeserve.jobs.payloads import StateChanged
from saeserve.jobs.record import Event, JobRecord, Lease, NumberedEvent
from saeserve.jobs.states import LEASED, TERMINAL, JobState

_S = JobState


@dataclass
class Entry:
    """A job and what only the index knows of it."""

    record: JobRecord
    lease_epoch: int = 0
    lease_ttl_s: float = 0.0
    left: tuple[str, int] | None = None
    settled: bool = False
    last_sequence: int = 0
    stream_ends: float = math.inf
    stream: list[NumberedEvent] = field(default_factory=list[NumberedEvent])
    highest_op: dict[int, int] = field(default_factory=dict[int, int])
    lowest_op: dict[int, int] = field(default_factory=dict[int, int])

    def holds(self, lease: Lease) -> bool:
        record = self.record
        if record.state not in LEASED or not lease.owner or record.owner_id != lease.owner:
            return False
        claimed = self.lease_epoch == 0 and lease.epoch > record.epoch
        return claimed or lease.epoch == self.lease_epoch

    def mark(self, event: Event) -> None:
        """Note that `event` is here."""
        if event.op != -1:
            known = self.lowest_op if event.by_worker else self.highest_op
            known[event.epoch] = event.op

    def lose(self, count: int) -> None:
        """Lose the last events."""
        del self.stream[-count:]
        self.last_sequence -= count
        self.highest_op, self.lowest_op = {}, {}
        for each in self.stream:
            self.mark(each.event)

    def has(self, event: Event, after: int) -> bool:
        """Whether `event` is here. Raises EventsMissing when the one before it, of op `after`, is
        not."""
        if event.by_worker:
            return event.op >= self.lowest_op.get(event.epoch, -1)
        highest = self.highest_op.get(event.epoch, -1)
        if event.op <= highest:
            return True
        if highest < after:
            raise EventsMissing(self.record.id, event.epoch, after)
        return False


class JobTable:
    """Moves jobs as the state machine wants it. `clock` gives seconds. The caller holds a lock."""

    def __init__(self, clock: Callable[[], float], stream_length: int, events_s: float) -> None:
        self._clock = clock
        self._stream_length = stream_length
        self._events_s = events_s
        self.entries: dict[str, Entry] = {}
        self.unsettled: set[str] = set()

    def queued(self, resource_class: str) -> Iterator[Entry]:
        for entry in self.entries.values():
            record = entry.record
            if record.state is _S.QUEUED and record.submission.resource_class == resource_class:
                yield entry

    def turn(self, entry: Entry) -> tuple[int, int, str]:
        mine = entry.record.submission
        others = (other.record for other in self.entries.values())
        running = sum(
            other.owner_id != ""
            and other.submission.owner == mine.owner
            and other.submission.resource_class == mine.resource_class
            for other in others
        )
        return -mine.priority, running, mine.id

    def give_back(self, entry: Entry, to: JobState, reason: str) -> None:
        if entry.record.state is _S.CANCELLING:
            self.cancel(entry, reason)
        else:
            self.move(entry, to, reason)

    def cancel(self, entry: Entry, reason: str) -> None:
        if entry.record.state is not _S.CANCELLING:
            self.move(entry, _S.CANCELLING, reason)
        entry.lease_epoch = 0
        self.change(entry, owner_id="")
        self.unsettled.add(entry.record.id)

    def approach(self, entry: Entry, to: JobState, reason: str) -> None:
        """Take the step that the state machine wants before `to`, if any."""
        state = entry.record.state
        if to is _S.CANCELLED and state in LEASED - {_S.CANCELLING}:
            self.move(entry, _S.CANCELLING, reason)
        elif to is not _S.CANCELLED and (
            state is _S.PAUSED or (state is _S.BLOCKED and to is _S.SUCCEEDED)
        ):
            self.move(entry, _S.QUEUED, reason)

    def move(self, entry: Entry, to: JobState, reason: str = "") -> None:
        changes: dict[str, object] = {"state": to, "reason": reason}
        if to not in LEASED:
            entry.lease_epoch = 0
            changes.update(owner_id="")
        if to in TERMINAL:
            changes["ended"] = self._clock()
        changes["revision"] = entry.record.revision + 1
        self.change(entry, **changes)
        self.note(entry)

    def append(self, entry: Entry, event: Event, after: int) -> bool:
        if entry.has(event, after):
            return False
        entry.mark(event)
        self.number(entry, event)
        return True

    def renew(self, entry: Entry, ttl_s: float) -> None:
        entry.lease_ttl_s = ttl_s
        self.change(entry, beats=entry.record.beats + 1)

    def change(self, entry: Entry, **changes: object) -> None:
        entry.record = entry.record.model_copy(update=changes)

    def note(self, entry: Entry) -> None:
        record = entry.record
        event = Event(
            epoch=record.epoch,
            op=-1,
            time=self._clock(),
            step=record.progress.step,
            payload=StateChanged(state=record.state, reason=record.reason),
        )
        self.number(entry, event)

    def number(self, entry: Entry, event: Event) -> None:
        entry.last_sequence += 1
        entry.stream.append(NumberedEvent(sequence=entry.last_sequence, event=event))
        del entry.stream[: -self._stream_length]
        if entry.record.state in TERMINAL:
            entry.stream_ends = self._clock() + self._events_s
