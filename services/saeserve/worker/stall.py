"""Looks whether a job stands still: warns, then has its attempt ended."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from saeserve.errors import Unavailable
from saeserve.jobs.errors import Fenced
from saeserve.jobs.events import EVENTS, WORKER_EVENTS, EventLog
from saeserve.jobs.payloads import WarningRaised
from saeserve.jobs.record import STALLING
from saeserve.worker.event_relay import EventRelay
from saeserve.worker.metrics import WorkerMetrics

LOOK_S = 1.0
_START_S = 60.0
"""A process that has given no sign of life yet may take so long to load, if not longer."""
_log = logging.getLogger("saeserve.worker.stall")


@dataclass(frozen=True)
class StallBounds:
    """A job stands still when nothing has moved for `factor` times the median interval between its
    reports, and for `minimum_s`."""

    factor: float
    minimum_s: float

    def bound_s(self, interval_s: float, *, alive: bool) -> float:
        """For a job that reports each `interval_s`; `alive`: it has given a sign of life."""
        bound_s = max(self.factor * interval_s, self.minimum_s)
        return bound_s if alive else max(bound_s, _START_S)


class StallWatch:
    """A thread that watches the time of the attempt's events file, which the job process changes
    with each event and, at most once a second, with whatever else it gets done.

    `over` is set once nothing has moved for twice the bound. Time in which this worker did not
    look, since it was paused or waited for the store itself, does not count; nor does time in
    which the store is away or cannot be written, so that no sign of life could reach it.
    """

    def __init__(
        self,
        folder: Path,
        epoch: int,
        bounds: StallBounds,
        relay: EventRelay,
        metrics: WorkerMetrics,
        clock: Callable[[], float] = time.monotonic,
        check_fence: Callable[[], None] | None = None,
    ) -> None:
        """`folder` is the attempt's; `check_fence` raises Fenced where it may write no more."""
        self._folder, self._epoch = folder, epoch
        self._bounds, self._relay, self._metrics = bounds, relay, metrics
        self._clock, self._check_fence = clock, check_fence
        self._every_s = min(LOOK_S, bounds.minimum_s / 5)
        self._looked = clock()
        self._mark = self._mark_now()
        self._alive = self._warned = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stall-watch", daemon=True)
        self.still_s = 0.0
        """How long nothing has moved."""
        self.over = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        self._metrics.still(0.0)
        if self._warned:
            self._relay.note_still(0.0)

    def look(self) -> None:
        """Look once, and warn where it is time. Raises OSError when the store does not answer."""
        now, before = self._clock(), self._looked
        self._looked = now
        mark = self._mark_now()
        # The folder is there since the claim, and changing its time is what signs of life do. Where
        # that fails, an absent or unchanged file says nothing about the job.
        os.utime(self._folder)
        if mark != self._mark:
            self._moved(mark)
            return
        self.still_s += min(now - before, 5 * self._every_s)
        self._metrics.still(self.still_s)
        bound_s = self._bounds.bound_s(self._relay.pace.median_s, alive=self._alive)
        if self.still_s > 2 * bound_s:
            self.over.set()
        elif self.still_s > bound_s:
            self._relay.note_still(self.still_s)
            self._warn(bound_s)

    def _moved(self, mark: int) -> None:
        if self._warned:
            _log.info("attempt %d moves again after %.0f s", self._epoch, self.still_s)
            self._relay.note_still(0.0)
        self._mark, self._alive, self._warned, self.still_s = mark, True, False, 0.0
        self._metrics.still(0.0)

    def _warn(self, bound_s: float) -> None:
        if self._warned:
            return
        self._warned = True
        message = (
            f"no step, row, file or checkpoint has moved for {self.still_s:.0f} s; after "
            f"{2 * bound_s:.0f} s this attempt ends as STALLED and the job is tried again"
        )
        _log.warning("attempt %d: %s", self._epoch, message)
        progress = self._relay.progress
        path, step = self._folder / WORKER_EVENTS, progress.step if progress else 0
        with (
            contextlib.suppress(Fenced),
            EventLog(path, self._epoch, by_worker=True, check_fence=self._check_fence) as log,
        ):
            log.append(WarningRaised(code=STALLING, message=message), step=step)

    def _mark_now(self) -> int:
        try:
            return (self._folder / EVENTS).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _run(self) -> None:
        away = False
        while not self._closed.wait(self._every_s):
            try:
                self.look()
            except (OSError, Unavailable) as error:
                if not away:
                    _log.warning("attempt %d: whether it moves is not seen: %s", self._epoch, error)
                away = True
            else:
                away = False
