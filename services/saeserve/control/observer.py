"""Sees jobs wait, start and end, and workers come and go."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from saeserve.control.handlers.catalog import LIVE
from saeserve.control.metrics import CLASSES, ControlMetrics
from saeserve.jobs.ports import JobIndex
from saeserve.jobs.record import JobFilter, JobRecord
from saeserve.jobs.states import TERMINAL, JobState

_PAGE = 100
_ENDED_EVERY_S = 15.0
"""Pause between two counts of the jobs that have ended, which are many."""


class JobObserver:
    """Call `observe` after every round; what ended before the first one is not counted."""

    def __init__(
        self,
        index: JobIndex,
        metrics: ControlMetrics,
        ended: Callable[[JobRecord], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ended` is called with each job that has ended; `clock` gives seconds since the epoch."""
        self._clock = clock
        self._queued_since: dict[str, float] = {}
        self._next_count = 0.0
        self._ended_by_class: dict[tuple[JobState, str], int] = {}
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
        self._describe(list(now.values()))

    def _describe(self, live: list[JobRecord]) -> None:
        """Set the gauges of queue and workers."""
        if time.monotonic() >= self._next_count:
            self._ended_by_class = dict(self._index.tally(TERMINAL))
            self._next_count = time.monotonic() + _ENDED_EVERY_S
        counts = Counter((each.state, each.submission.resource_class) for each in live)
        self._metrics.count_jobs({**self._ended_by_class, **counts})
        names = {*CLASSES, *(each.submission.resource_class for each in live)}
        ages = self._waited([each for each in live if each.state is JobState.QUEUED])
        for name in names:
            self._metrics.oldest_queued.labels(name).set(ages.get(name, 0.0))
            self._metrics.workers.labels(name).set(len(self._index.machines(name)))

    def _waited(self, queued: list[JobRecord]) -> dict[str, float]:
        """Seconds that the longest waiting job of each class has waited."""
        now = self._clock()
        since = {each.id: self._queued_since.get(each.id, _since(each, now)) for each in queued}
        self._queued_since = since
        ages: dict[str, float] = {}
        for each in queued:
            name = each.submission.resource_class
            ages[name] = max(ages.get(name, 0.0), now - since[each.id])
        return ages

    def _count(self, record: JobRecord, before: JobRecord | None) -> None:
        if record.started and not (before and before.started):
            self._metrics.queue_wait.observe(max(0.0, record.started - record.submission.created))
        if record.state in TERMINAL:
            kind, outcome = record.submission.kind, record.state.value
            self._ended(record)
            self._metrics.finished.labels(kind, outcome).inc()
            # Until all are counted again.
            ended = (record.state, record.submission.resource_class)
            self._ended_by_class[ended] = self._ended_by_class.get(ended, 0) + 1
            if record.failure is not None:
                self._metrics.failures.labels(record.failure.code).inc()
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


def _since(record: JobRecord, now: float) -> float:
    """Since when a job that is queued now has been. One that waited for others, or ran before, was
    not queued all the time since it was submitted."""
    direct = not record.submission.waits_for and record.epoch == 0
    return record.submission.created if direct else now
