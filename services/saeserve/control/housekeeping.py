"""The thread that sweeps the store, in the control service that leads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Housekeeper:
    """Calls `sweep` every `seconds` while `lead` was called since the last time.

    Its own thread: to look through a large store takes longer than a round of the reconciler may.
    """

    def __init__(self, sweep: Callable[[], None], seconds: float) -> None:
        self._sweep = sweep
        self._seconds = seconds
        self._leading = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        """Begin; the first sweep comes as soon as this service leads."""
        self._thread.start()

    def lead(self) -> None:
        """Say that this service leads now."""
        self._leading.set()

    def close(self) -> None:
        """Sweep no more. One that runs is not waited for: it removes nothing by halves."""
        self._closed.set()
        self._leading.set()

    def _run(self) -> None:
        while self._leading.wait() and not self._closed.is_set():
            self._leading.clear()
            try:
                self._sweep()
            except Exception:
                log.exception("a sweep of the store failed; the next one comes")
            self._closed.wait(self._seconds)
