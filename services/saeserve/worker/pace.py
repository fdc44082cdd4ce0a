"""How often a job reports."""

from __future__ import annotations

import statistics
from collections import deque

from saeserve.jobs.record import Event

_KEPT = 101


class Pace:
    """The intervals between the latest reports, by the job process's clock. The members of a sweep
    report the same steps: one report a step counts."""

    def __init__(self) -> None:
        self._intervals: deque[float] = deque(maxlen=_KEPT)
        self._last: tuple[int, float] | None = None

    def reported(self, event: Event) -> None:
        """A metrics event was read."""
        if self._last is not None:
            step, time = self._last
            if event.step == step:
                return
            self._intervals.append(max(0.0, event.time - time))
        self._last = (event.step, event.time)

    @property
    def median_s(self) -> float:
        """Median of the intervals; 0 before there are any."""
        return statistics.median(tuple(self._intervals) or (0.0,))
