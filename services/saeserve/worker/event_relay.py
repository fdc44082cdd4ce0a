"""Carries an attempt's events from its file to the index, the metrics and the progress."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from saeserve.jobs.errors import EventsMissing
from saeserve.jobs.events import EventTail
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.jobs.record import Event, Progress, Submission
from saeserve.worker.metrics import WorkerMetrics
from saeserve.worker.report import MEMBER_DIVERGED

_log = logging.getLogger("saeserve.worker.events")
_SUMMED = ("tokens", "tokens_per_second")
"""Metrics of a sweep's members whose sum is one of the job."""


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
        earlier: Callable[[], Iterable[Event]] = tuple,
    ) -> None:
        """`earlier` gives earlier attempts' events, which go first: their worker may have died
        before the index had them, and the index takes none twice."""
        self._path, self._job, self._kind = path, job.id, job.kind
        self._resume_step = resume_step
        self._index = index
        self._metrics = metrics
        self._tail = EventTail(path)
        self._earlier = earlier
        self._waiting: deque[Event] = deque(earlier())
        self._handed: dict[int, int] = {}
        self._values: dict[str, Mapping[str, float]] = {}
        self._seen = -1
        self._lock = threading.Lock()
        self._rewound = threading.Event()
        self.progress: Progress | None = None
        """How far the attempt is, by its latest metrics event."""

    def forward(self) -> None:
        """Take in what is new and hand it to the index, as far as that answers."""
        with self._lock:
            if self._rewound.is_set():
                self._rewound.clear()
                self._begin_again()
            self._take_in()
            self._hand_over()

    def rewind(self) -> None:
        """Have the next `forward` hand everything to the index again, which has lost its data;
        appending is idempotent. Waits for nothing."""
        self._rewound.set()

    def _begin_again(self) -> None:
        self._tail = EventTail(self._path)
        self._handed.clear()
        self._waiting = deque(self._earlier())
        self._take_in()

    def _take_in(self) -> None:
        for event in self._tail.read():
            self._waiting.append(event)
            if event.op > self._seen:
                self._seen = event.op
                self._observe(event)

    def _hand_over(self) -> None:
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
        except IndexUnavailable:
            _log.debug("%s: %d events wait for the index", self._job, len(self._waiting))
        except EventsMissing as error:
            _log.warning("%s; all are handed over again", error)
            self._begin_again()

    def _append(self, event: Event) -> None:
        self._index.append(self._job, event, self._handed.get(event.epoch, -1))
        self._handed[event.epoch] = event.op

    def _observe(self, event: Event) -> None:
        member: str = event.data.get("member", "")
        if event.type == "warning":
            self._metrics.warned(event)
            if event.data.get("code") == MEMBER_DIVERGED:
                self._values.pop(member, None)
                self._metrics.lost_member(event)
        if event.type != "metrics":
            return
        if self.progress is None:
            self._metrics.attempt_began(self._kind)
        before = self._values.get(member)
        self._metrics.observe(self._kind, event, before, self._resume_step)
        self._values[member] = cast("Mapping[str, float]", event.data["metrics"])
        self.progress = _progress(event.step, event.data, self._values)


def _progress(
    step: int, data: Mapping[str, Any], latest: Mapping[str, Mapping[str, float]]
) -> Progress:
    """`latest` has each member's metrics by name; those of a job without a sweep by ""."""
    members = {name: dict(values) for name, values in latest.items() if name}
    sums = {key: sum(each.get(key, 0.0) for each in members.values()) for key in _SUMMED}
    return Progress(
        step=step,
        total_steps=int(data.get("total_steps", 0)),
        unit=str(data.get("unit", "steps")),
        units_per_second=float(data.get("units_per_second", 0.0)),
        metrics=sums if members else data["metrics"],
        members=members,
    )
