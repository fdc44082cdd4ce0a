"""Following a job: its events from the index, and when it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saeserve.control.converters.tokens import Cursor
from saeserve.control.handlers.catalog import JobCatalog
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import JobIndex
from saeserve.jobs.record import Event, JobRecord
from saeserve.jobs.states import TERMINAL

_BATCH = 200


@dataclass(frozen=True)
class Seen:
    """An event and where a watch stands after it."""

    cursor: Cursor
    event: Event


@dataclass(frozen=True)
class News:
    """What a look brought: events lost before `events` (None: none; 0: an unknown number), the
    events, where the watch stands now, the job as it was just before, and as it ended once nothing
    more will come."""

    lost: int | None
    events: Sequence[Seen]
    cursor: Cursor
    record: JobRecord
    ended: JobRecord | None


class Watcher:
    """Looks for news of a job. Every call may raise IndexUnavailable."""

    def __init__(self, catalog: JobCatalog, index: JobIndex, ledger: Ledger) -> None:
        self._catalog = catalog
        self._index = index
        self._ledger = ledger

    def job(self, job: str) -> JobRecord:
        """The job as it is. Raises InvalidInput, NotFound."""
        self._index.generation()
        return self._catalog.get(job)

    def look(self, job: str, cursor: Cursor) -> News:
        """What happened after `cursor`."""
        generation = self._index.generation() or ""
        # Read before the events: whatever ended the job is among them, then.
        record = self._catalog.get(job)
        rebuilt = bool(cursor.sequence) and cursor.generation not in ("", generation)
        after = 0 if rebuilt else cursor.sequence
        found = self._index.events(job, after, _BATCH)
        if record.state in TERMINAL and not found:
            last = self._index.last_sequence(job)
            if last > after:
                return self._from_store(record, Cursor(generation, after, cursor.stored), last)
        lost: int | None = None
        if rebuilt:
            lost = 0
        elif found and found[0].sequence > after + 1:
            lost = found[0].sequence - after - 1
        seen = [Seen(Cursor(generation, each.sequence), each.event) for each in found]
        ended = record if record.state in TERMINAL and len(found) < _BATCH else None
        now = seen[-1].cursor if seen else Cursor(generation, after)
        return News(lost, seen, now, record, ended)

    def _from_store(self, record: JobRecord, cursor: Cursor, last: int) -> News:
        """The rest of a job whose events the index keeps no more: that they are gone, then all
        that the store has, from the first on."""
        end = Cursor(cursor.generation, last)
        lost = None if cursor.stored else last - cursor.sequence
        left = self._ledger.history(record.id)[cursor.stored :]
        seen = [
            Seen(replace(cursor, stored=cursor.stored + number), event)
            for number, event in enumerate(left[:_BATCH], start=1)
        ]
        if len(left) > _BATCH:
            return News(lost, seen, seen[-1].cursor, record, None)
        if seen:
            seen[-1] = Seen(end, seen[-1].event)
        return News(lost, seen, end, record, record)
