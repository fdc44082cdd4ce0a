"""Tells the index what machine this worker has, and has it measured once while no job runs."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from saeserve.core.specs.machine import Machine
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.platform.memory import limit_bytes
from saeserve.worker.child import Child
from saeserve.worker.hardware import (
    CalibrationOrder,
    command,
    fingerprint,
    processor_name,
    unmeasured,
)
from saeserve.worker.settings import WorkerSettings

_log = logging.getLogger("saeserve.worker.machine")
_POLL_S = 0.1
LONGEST_S = 60.0
"""A calibration is given up after this time; the first one on a machine compiles kernels."""


class Announcer:
    """A thread that tells of the machine at once and again each third of `lease_seconds`, after
    which the index forgets a worker that fell silent.

    Measurements are kept as files below the worker's `run` directory, by the machine's
    fingerprint, so that a restart does not repeat them.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        index: JobIndex,
        alone: threading.Lock,
        order_command: Callable[[CalibrationOrder], Sequence[str]] = command,
    ) -> None:
        """`alone` is held by whoever uses the machine: a job, or the calibration."""
        self._settings = settings
        self._index = index
        self._alone = alone
        self._command = order_command
        self._worker = uuid.uuid4().hex
        self._machines: dict[str, Machine] = {}
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._tell_often, name="machine-announcer", daemon=True),
            threading.Thread(target=self._measure_all, name="machine-calibrator", daemon=True),
        ]

    def start(self) -> None:
        """Tell what is known without measuring, then begin."""
        for each in self._settings.worker_classes:
            known = self._kept(each) or unmeasured(each, self._mark(each))
            if known is not None:
                self._machines[each] = known
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Come to an end soon; a calibration that runs is ended."""
        self._closed.set()

    def close(self) -> None:
        """Stop, and wait for it."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def _tell_often(self) -> None:
        self._tell()
        while not self._closed.wait(self._settings.lease_seconds / 3):
            self._tell()

    def _tell(self) -> None:
        ttl_s = self._settings.lease_seconds
        with contextlib.suppress(IndexUnavailable):  # told again soon
            for each, machine in list(self._machines.items()):
                self._index.announce(each, self._worker, machine, ttl_s)

    def _measure_all(self) -> None:
        if not self._settings.calibrate:
            return
        for each in self._settings.worker_classes:
            known = self._machines.get(each)
            if known is None or not known.measured:
                self._measure(each)

    def _measure(self, resource_class: str) -> None:
        """In this thread, whose end would end the child too."""
        with self._alone:
            self._run_child(resource_class)
        measured = self._kept(resource_class)
        if measured is not None:
            self._machines[resource_class] = measured
            self._tell()
        elif not self._closed.is_set():
            _log.warning("class %s was not calibrated; plans predict no speed", resource_class)

    def _run_child(self, resource_class: str) -> None:
        if self._closed.is_set():
            return
        began = time.monotonic()
        child = Child(self._command(self._order(resource_class)), stop_grace_s=0.0)
        try:
            while child.poll(_POLL_S) is None:
                if self._closed.is_set() or time.monotonic() - began > LONGEST_S:
                    return
        finally:
            child.kill()
        _log.info("calibrated class %s in %.1f s", resource_class, time.monotonic() - began)

    def _order(self, resource_class: str) -> CalibrationOrder:
        path = self._path(resource_class)
        path.parent.mkdir(parents=True, exist_ok=True)
        return CalibrationOrder(
            resource_class=resource_class,
            fingerprint=self._mark(resource_class),
            name=processor_name(),
            torch_threads=self._settings.torch_threads,
            path=path,
            parent=os.getpid(),
        )

    def _kept(self, resource_class: str) -> Machine | None:
        """An earlier measurement of this machine, with the memory limit as it is now."""
        try:
            kept = Machine.model_validate_json(self._path(resource_class).read_bytes())
        except (OSError, ValidationError):
            return None
        memory = kept.memory_bytes if resource_class != "cpu" else limit_bytes()
        return kept.model_copy(update={"memory_bytes": memory})

    def _path(self, resource_class: str) -> Path:
        return self._settings.run.resolve() / "machines" / f"{self._mark(resource_class)}.json"

    def _mark(self, resource_class: str) -> str:
        return fingerprint(resource_class, self._settings.torch_threads)
