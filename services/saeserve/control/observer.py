"""Sees jobs start and end, for what counts of states cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from saeserve.control.handlers.catalog import LIVE
from saeserve.control.metrics import ControlMetrics
from saeserve.jobs.ports import JobIndex
from saeserve.jobs.record import JobFilter, JobRecord
from saeserve.jobs.states import TERMINAL

_PAGE = 100


class JobObserver:
    """Call `observe` after every round; what ended before the first one is not counted."""

    def __init__(
        self, index: JobIndex, metrics: ControlMetrics, ended: Callable[[JobRecord], None]
    ) -> None:
        """`ended` is told each job that was seen to end."""
        self._index = index
        self._metrics = metrics
        self._ended = ended
        self._newest: str | None = None
        self._live: dict[str, JobRecord] = {}

    def observe(self) -> None:
        """Count what changed since the last call. Raises IndexUnavailable."""
        now = {record.id: record for record in self._pages(JobFilter(states=LIVE))}
        fresh = self._fresh()
        if self._newest is not None:
            gone = [self._index.get(job) for job in self._live.keys() - now.keys()]
            seen = {record.id: record for record in (*now.values(), *fresh, *filter(None, gone))}
            for record in seen.values():
                self._count(record, self._live.get(record.id))
        self._newest = max([self._newest or "", *(record.id for record in fresh)])
        self._live = now

    def _count(self, record: JobRecord, before: JobRecord | None) -> None:
        if record.started and not (before and before.started):
            self._metrics.queue_wait.observe(max(0.0, record.started - record.submission.created))
        if record.state in TERMINAL:
            kind, outcome = record.submission.kind, record.state.value
            self._ended(record)
            self._metrics.finished.labels(kind, outcome).inc()
            if record.started:
                seconds = max(0.0, record.ended - record.started)
                self._metrics.duration.labels(kind, outcome).observe(seconds)

    def _fresh(self) -> list[JobRecord]:
        """Jobs submitted since the last call, some of which may have ended already."""
        found: list[JobRecord] = []
        for record in self._pages(JobFilter()):
            if self._newest is not None and record.id <= self._newest:
                break
            found.append(record)
            if self._newest is None:
                break
        return found

    def _pages(self, wanted: JobFilter) -> Iterator[JobRecord]:
        after = ""
        while True:
            records, after = self._index.page(wanted, _PAGE, after)
            yield from records
            if not after:
                return
