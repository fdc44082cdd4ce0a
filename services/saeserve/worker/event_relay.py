"""Carries an attempt's events from its file to the index, the metrics and the progress."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from saeserve.jobs.errors import EventsMissing
from saeserve.jobs.events import WORKER_EVENTS, EventTail
from saeserve.jobs.payloads import CheckpointCommitted, MetricsReported, WarningRaised
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.jobs.progress import progress_at
from saeserve.jobs.record import Event, Progress, Submission
from saeserve.jobs.telling import missing
from saeserve.worker.metrics import WorkerMetrics
from saeserve.worker.pace import Pace

_log = logging.getLogger("saeserve.worker.events")


class EventRelay:
    """Reads the attempt's events as they are written, by its job process and by this worker. What
    the index could not take waits, in order.

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
        """`path` is what the job process and this worker write to; `earlier` gives
        earlier attempts' events, which go first: their worker may have died before the index had
        them."""
        self.folder = path.parent
        """The attempt's."""
        self._paths = (path, path.with_name(WORKER_EVENTS))
        self._job, self._kind = job.id, job.kind
        self._resume_step = resume_step
        self._index = index
        self._metrics = metrics
        self._tails = self._open()
        self._earlier = earlier
        self._of_earlier, self._sifted = deque(earlier()), False
        self._waiting: deque[Event] = deque()
        self._may_begin = threading.Event()
        self._may_begin.set()
        self._handed: dict[int, int] = {}
        self._values: dict[str, Mapping[str, float]] = {}
        self._seen, self._seen_of_worker = -1, -1
        self._lock = threading.Lock()
        self._rewound = threading.Event()
        self._progress: Progress | None = None
        self._began = False
        self._still_s = 0.0
        self.pace = Pace()
        """How often the job reports."""

    @property
    def progress(self) -> Progress | None:
        """How far the attempt is, by its latest metrics event, and whether it stands still."""
        known = self._progress
        return known and known.model_copy(update={"still_seconds": self._still_s})

    def note_still(self, seconds: float) -> None:
        """Nothing has moved for so long; 0: something has."""
        self._still_s = seconds
        self._progress = self._progress or Progress(step=self._resume_step)

    def forward(self) -> None:
        """Take in what is new and hand it to the index, as far as that answers."""
        with self._lock:
            if self._rewound.is_set():
                self._rewound.clear()
                self._begin_again()
            self._take_in()
            self._hand_over(own=self._may_begin.is_set())

    def hand_earlier(self) -> None:
        """Hand over the events of earlier attempts alone. Only the index is waited for."""
        with self._lock:
            self._hand_over(own=False)

    @property
    def earlier_handed(self) -> bool:
        """Whether the index has all events of earlier attempts."""
        return not self._of_earlier

    def hold(self) -> None:
        """Keep this attempt's own events back until `begin`."""
        self._may_begin.clear()

    def begin(self) -> None:
        """The index has noted that the attempt runs: its events may follow."""
        self._may_begin.set()

    def rewind(self) -> None:
        """Have the next `forward` hand everything to the index again, which has lost its data;
        appending is idempotent. Waits for nothing."""
        self._rewound.set()

    def _begin_again(self) -> None:
        self._tails = self._open()
        self._handed.clear()
        self._of_earlier, self._sifted = deque(self._earlier()), False
        self._waiting.clear()
        self._take_in()

    def _open(self) -> tuple[EventTail, ...]:
        return tuple(EventTail(path) for path in self._paths)

    def _take_in(self) -> None:
        for tail in self._tails:
            for event in tail.read():
                self._waiting.append(event)
                if self._new(event):
                    self._observe(event)

    def _new(self, event: Event) -> bool:
        """Whether it was not read before the index lost its data."""
        if event.by_worker:
            self._seen_of_worker, before = min(self._seen_of_worker, event.op), self._seen_of_worker
            return event.op < before
        self._seen, before = max(self._seen, event.op), self._seen
        return event.op > before

    def _hand_over(self, *, own: bool) -> None:
        try:
            self._sift()
            self._hand(self._of_earlier)
            if own:
                self._hand(self._waiting)
        except IndexUnavailable:
            waiting = len(self._of_earlier) + len(self._waiting)
            _log.debug("%s: %d events wait for the index", self._job, waiting)
        except EventsMissing as error:
            _log.warning("%s; all are handed over again", error)
            self._begin_again()

    def _sift(self) -> None:
        """Leave out what the index has of earlier attempts: a call for each delays the start."""
        if self._of_earlier and not self._sifted:
            self._of_earlier = deque(missing(self._index, self._job, self._of_earlier))
        self._sifted = True

    def _hand(self, events: deque[Event]) -> None:
        while events:
            self._append(events[0])
            events.popleft()

    def _append(self, event: Event) -> None:
        if event.by_worker:
            self._index.append(self._job, event)
            return
        self._index.append(self._job, event, self._handed.get(event.epoch, -1))
        self._handed[event.epoch] = event.op

    def _observe(self, event: Event) -> None:
        match event.payload:
            case WarningRaised() as warning:
                self._warned(warning)
            case CheckpointCommitted():
                self._metrics.committed(self._kind, event)
            case MetricsReported() as report:
                self._reported(event, report)
            case _:
                pass

    def _warned(self, warning: WarningRaised) -> None:
        self._metrics.warned(warning)
        if warning.ends_member:
            self._values.pop(warning.member, None)
            self._metrics.lost_member(warning)

    def _reported(self, event: Event, report: MetricsReported) -> None:
        self.pace.reported(event)
        if not self._began:
            self._began = True
            self._metrics.attempt_began(self._kind)
        before = self._values.get(report.member)
        self._metrics.observe(self._kind, event.step, report, before, self._resume_step)
        self._values[report.member] = report.metrics
        self._progress = progress_at(event.step, report, self._values)
