"""Leases as others see them, and how long their holders have been silent by the watcher's clock.

Leases and leadership carry a mark that changes with every beat. Whoever wants to take one over
watches the mark: no clock but the watcher's monotonic one counts, so a step of the broker's clock
neither ends a lease nor prolongs one.
"""

from __future__ import annotations

from collections.abc import Mapping

from saeserve.jobs.record import Value


class HeldLease(Value):
    """A lease as the index shows it to whoever may take it back."""

    job: str
    mark: str
    """Changes with every renewal."""
    ttl_s: float | None
    """How long it lasts without one; None when a release wrote it that did not say."""


class Leadership(Value):
    """Who leads."""

    holder: str
    mark: str
    """Changes whenever the holder is heard."""


class SilenceWatch:
    """Look often: between two looks more than `gap_s` apart nobody is known to have been silent."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._looked = 0.0
        self._seen: dict[str, tuple[str, float]] = {}

    def look(self, marks: Mapping[str, str], now: float) -> dict[str, float]:
        """Seconds for which each mark has stood as it is now; `now` on a monotonic clock.

        After a longer gap all begin at zero: while this process, or the broker, was away, nobody
        could be heard.
        """
        if now - self._looked > self._gap_s:
            self._seen.clear()
        self._looked = now
        self._seen = {key: (mark, self._since(key, mark, now)) for key, mark in marks.items()}
        return {key: now - since for key, (_, since) in self._seen.items()}

    def forget(self) -> None:
        """Forget all marks: they may repeat after the broker lost its data."""
        self._seen.clear()

    def _since(self, key: str, mark: str, now: float) -> float:
        seen, since = self._seen.get(key, ("", now))
        return since if seen == mark else now
