"""How long a device waits for rows, and how fast it goes through them, by marks of its queue.

The host may be far ahead of the device or behind it; what counts is the time between the device's
being done with all that came before and the rows' being there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from saeserve.core.data.lane import Lane, Mark

Pair = tuple[Mark, Mark]
OPEN_PAIRS = 256
"""More pairs of marks than that are added up as soon as they have passed."""


@dataclass(frozen=True)
class Sum:
    """Seconds, and pairs of marks between which more lie."""

    seconds: float
    pairs: tuple[Pair, ...]

    def total(self, lane: Lane) -> float:
        """All of it, waiting for the marks."""
        return self.seconds + sum(lane.seconds(first, last) for first, last in self.pairs)


class Account:
    """Time that is added up for one reader."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._seconds = 0.0
        self._pairs: deque[Pair] = deque()

    def add(self, pair: Pair) -> None:
        """Add the time between two marks, which may not have passed yet."""
        self._pairs.append(pair)
        while len(self._pairs) > OPEN_PAIRS and self._pairs[0][1].passed():
            self._seconds += self._lane.seconds(*self._pairs.popleft())

    def take(self) -> Sum:
        """What was added since it was last taken."""
        found = Sum(self._seconds, tuple(self._pairs))
        self._seconds = 0.0
        self._pairs.clear()
        return found


class Waits:
    """Adds up for every reader how long is waited."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._accounts: list[Account] = []

    def account(self) -> Account:
        """An account of what is waited from now on."""
        account = Account(self.lane)
        self._accounts.append(account)
        return account

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Count the time that the block takes the device."""
        first = self.lane.mark()
        yield
        pair = first, self.lane.mark()
        for account in self._accounts:
            account.add(pair)
