"""Pauses that grow while something fails."""

from __future__ import annotations


class Backoff:
    """`first_s` after the first failure in a row, twice as long after each more."""

    def __init__(self, first_s: float = 5.0, longest_s: float = 60.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def failed(self) -> float:
        """Seconds to pause after this failure."""
        pause = self._next_s
        self._next_s = min(2 * pause, max(self._longest_s, self._first_s))
        return pause

    def succeeded(self) -> None:
        """Begin with the shortest pause again."""
        self._next_s = self._first_s
