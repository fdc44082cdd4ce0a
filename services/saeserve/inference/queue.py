"""Who is computed next: one line for each kind of work, turns within a line. Pure, no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(eq=False)
class Entry:
    """`rows` rows of work that may share a batch with work of the same `key`."""

    key: Hashable
    rows: int
    taken: int = 0
    """Rows handed out so far."""
    turn: int = 0
    """Rows it may still take before others come first."""
    gone: bool = False
    """Nobody waits for it any more."""

    @property
    def waiting(self) -> int:
        """Rows not handed out yet."""
        return self.rows - self.taken


EntryT = TypeVar("EntryT", bound=Entry)


@dataclass(frozen=True)
class Slice(Generic[EntryT]):
    """Rows start .. stop of an entry, to be computed in one batch."""

    entry: EntryT
    start: int
    stop: int


class FairQueue(Generic[EntryT]):
    """First come, first served, in batches of at most `batch_rows` rows.

    An entry longer than a batch goes to the back of its line after each batch it filled, so it
    delays a short one by one batch at most; lines of different keys take turns.
    """

    def __init__(self, batch_rows: int) -> None:
        self._batch_rows = batch_rows
        self._lines: OrderedDict[Hashable, deque[EntryT]] = OrderedDict()
        self.rows = 0
        """Rows that wait."""

    def push(self, entry: EntryT) -> None:
        """Put a new entry at the end of its line."""
        entry.turn = self._batch_rows
        self._lines.setdefault(entry.key, deque()).append(entry)
        self.rows += entry.rows

    def remove(self, entry: EntryT) -> None:
        """Forget what is left of an entry; its place is skipped later."""
        if not entry.gone:
            entry.gone = True
            self.rows -= entry.waiting

    def take(self, wanted: Callable[[EntryT], bool]) -> list[Slice[EntryT]]:
        """The next batch, all of one key, without entries that are not `wanted`; empty if none."""
        while self._lines:
            key, line = next(iter(self._lines.items()))
            slices = self._fill(line, wanted)
            if line:
                self._lines.move_to_end(key)
            else:
                del self._lines[key]
            if slices:
                return slices
        return []

    def _fill(self, line: deque[EntryT], wanted: Callable[[EntryT], bool]) -> list[Slice[EntryT]]:
        slices: list[Slice[EntryT]] = []
        room = self._batch_rows
        while line and room > 0:
            entry = line.popleft()
            if not entry.gone and not wanted(entry):
                self.remove(entry)
            if entry.gone:
                continue
            count = min(entry.waiting, entry.turn, room)
            slices.append(Slice(entry, entry.taken, entry.taken + count))
            room -= count
            self._advance(line, entry, count)
        return slices

    def _advance(self, line: deque[EntryT], entry: EntryT, count: int) -> None:
        entry.taken += count
        entry.turn -= count
        self.rows -= count
        if entry.waiting and entry.turn:
            line.appendleft(entry)
        elif entry.waiting:
            entry.turn = self._batch_rows
            line.append(entry)
