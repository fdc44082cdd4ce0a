"""Carries an attempt's events from its file to the index, the metrics and the progress."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from saeserve.jobs.events import EventTail
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.jobs.record import Event, Progress, Submission
from saeserve.worker.metrics import WorkerMetrics

_log = logging.getLogger("saeserve.worker.events")


class EventRelay:
    """Reads `events.jsonl` as it grows. What the index could not take waits, in order.

    Lease keeper and supervisor share it.
    """

    def __init__(
        self,
        path: Path,
        job: Submission,
        resume_step: int,
        index: JobIndex,
        metrics: WorkerMetrics,
    ) -> None:
        self._path, self._job, self._kind = path, job.id, job.kind
        self._resume_step = resume_step
        self._index = index
        self._metrics = metrics
        self._tail = EventTail(path)
        self._waiting: deque[Event] = deque()
        self._values: dict[str, float] = {}
        self._seen = -1
        self._lock = threading.Lock()
        self.progress: Progress | None = None
        """How far the attempt is, by its latest metrics event."""

    def forward(self) -> None:
        """Take in what is new and hand it to the index, as far as that answers."""
        with self._lock:
            self._take_in()
            self._hand_over()

    def rewind(self) -> None:
        """Hand everything to the index again: it has lost its data; appending is idempotent."""
        with self._lock:
            self._tail = EventTail(self._path)
            self._waiting.clear()

    def _take_in(self) -> None:
        for event in self._tail.read():
            self._waiting.append(event)
            if event.op > self._seen:
                self._seen = event.op
                self._observe(event)

    def _hand_over(self) -> None:
        try:
            while self._waiting:
                self._index.append(self._job, self._waiting[0])
                self._waiting.popleft()
        except IndexUnavailable:
            _log.debug("%s: %d events wait for the index", self._job, len(self._waiting))

    def _observe(self, event: Event) -> None:
        if event.type != "metrics":
            return
        self._metrics.observe(self._kind, event, self._values, self._resume_step)
        self._values = dict(cast("Mapping[str, float]", event.data["metrics"]))
        self.progress = _progress(event.step, event.data)


def _progress(step: int, data: Mapping[str, Any]) -> Progress:
    return Progress(
        step=step,
        total_steps=int(data.get("total_steps", 0)),
        unit=str(data.get("unit", "steps")),
        units_per_second=float(data.get("units_per_second", 0.0)),
        metrics=data["metrics"],
    )
