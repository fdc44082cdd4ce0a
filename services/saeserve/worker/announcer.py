"""Tells the index again and again which classes this worker takes, and on what machine."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Mapping

from saeserve.core.planning.machine import Machine
from saeserve.jobs.ports import IndexUnavailable, JobIndex


class Announcer:
    """A thread that announces the worker at once and again each third of `lease_seconds`, after
    which the index forgets a worker that fell silent."""

    def __init__(
        self, machines: Mapping[str, Machine], index: JobIndex, lease_seconds: float
    ) -> None:
        """`machines`: that of each resource class which the worker takes."""
        self._machines = machines
        self._index = index
        self._ttl_s = lease_seconds
        self._worker = uuid.uuid4().hex
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="machine-announcer", daemon=True)

    def start(self) -> None:
        """Announce from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Come to an end soon."""
        self._closed.set()

    def close(self) -> None:
        """Stop, and wait for it."""
        self.stop()
        self._thread.join()

    def _run(self) -> None:
        self._announce()
        while not self._closed.wait(self._ttl_s / 3):
            self._announce()

    def _announce(self) -> None:
        with contextlib.suppress(IndexUnavailable):  # the next announcement comes soon
            for each, machine in self._machines.items():
                self._index.announce(each, self._worker, machine, self._ttl_s)
