"""The reconciler's thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from saeserve.control.metrics import ControlMetrics
from saeserve.control.observer import JobObserver
from saeserve.control.telemetry import Telemetry
from saeserve.errors import Unavailable
from saeserve.jobs.ports import IndexUnavailable
from saeserve.jobs.reconciler import Reconciler, TickReport

log = logging.getLogger(__name__)


class ReconcileLoop:
    """Ticks the reconciler until closed. Whatever a tick raises, the next one comes."""

    def __init__(
        self,
        reconciler: Reconciler,
        observer: JobObserver,
        metrics: ControlMetrics,
        seconds: float,
        chore: Callable[[], None] = lambda: None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """`chore` follows every round of the leader, and `telemetry` looks after every round,
        whatever became of it; both pace themselves."""
        self._chore = chore
        self._telemetry = telemetry
        self._reconciler = reconciler
        self._observer = observer
        self._metrics = metrics
        self._seconds = seconds
        self._closed = threading.Event()
        self._reachable = True
        self._refusal = ""
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin to tick."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the tick that runs."""
        self._closed.set()
        self._thread.join()

    def once(self) -> None:
        """One round; errors are logged, an outage of the index once."""
        try:
            self._publish(self._reconciler.tick())
        except IndexUnavailable as error:
            self._note(reachable=False, why=str(error))
        except Unavailable as error:
            self._note_store(error)
        except Exception:
            log.exception("a round of the reconciler failed; the next one comes")
        else:
            self._note(reachable=True)
            self._note_store(None)

    def _run(self) -> None:
        while not self._closed.is_set():
            self.once()
            if self._telemetry is not None:
                self._telemetry.look()
            self._closed.wait(self._seconds)

    def _publish(self, report: TickReport) -> None:
        self._metrics.round_ended(leading=report.leading)
        if not report.leading:
            return
        self._metrics.rung.inc(report.rung)
        self._metrics.expired.inc(report.expired)
        self._metrics.rebuilds.inc(report.rebuilt)
        self._observer.observe()
        self._chore()

    def _note(self, *, reachable: bool, why: str = "") -> None:
        if reachable and not self._reachable:
            log.info("the job index is back")
        if not reachable and self._reachable:
            log.warning("the job index is out of reach; jobs are recorded in the store: %s", why)
        self._reachable = reachable

    def _note_store(self, error: Unavailable | None) -> None:
        if self._telemetry is not None:
            self._telemetry.note_store(error)
        why = error.text() if error else ""
        if why and why != self._refusal:
            log.error("nothing is decided about jobs: %s", why)
        if self._refusal and not why:
            log.info("the artifact store is there again")
        self._refusal = why
