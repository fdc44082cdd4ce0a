"""All processes of a deployment under one parent: start in order, one line each, stop together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saeserve.errors import StartupError
from saeserve.platform.logging import ready_facts
from saeserve.platform.process import bound_command

START_SECONDS = 90.0
POLL_SECONDS = 0.05
LOG_LINES = 12
RESTARTS = 5
RESTARTS_WITHIN_S = 120.0
FIRST_PAUSE_S = 1.0
"""Before the second restart within `RESTARTS_WITHIN_S`; doubled with each further one."""
LOG_BYTES = 16 * 2**20
"""A log that is longer is rotated, also while its service runs."""
KEPT_LOGS = 5
"""Logs of earlier runs, and earlier parts of long ones, that are kept, as <service>.log.1 (the
latest) and so on."""


@dataclass(frozen=True)
class Service:
    """One process: its name and the module that it runs."""

    name: str
    module: str


BROKER = Service("broker", "saeserve.platform.broker")
SERVICES = (
    Service("control", "saeserve.control"),
    Service("inference", "saeserve.inference"),
    Service("worker", "saeserve.worker"),
    Service("explorer", "saeserve.explorer"),
)


class Stack:
    """Runs the services as children; logs go to `<logs>/<service>.log`."""

    def __init__(
        self,
        services: Sequence[Service],
        logs: Path,
        environment: Mapping[str, str],
        say: Callable[[str, str], None],
    ) -> None:
        self._services = services
        self._logs = logs
        self._environment = environment
        self._say = say
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts: dict[str, deque[float]] = {}

    def start(self) -> None:
        """Start every service and wait until it answers. Raises StartupError, all stopped."""
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for service in self._services:
                self._say(service.name, self._start(service))
        except BaseException:
            self.stop()
            raise

    def pids(self) -> dict[str, int]:
        """Process id of each running service."""
        return {name: process.pid for name, process in self._running.items()}

    def ended(self) -> str:
        """Name of a service that has ended by itself, or ""."""
        gone = (name for name, process in self._running.items() if process.poll() is not None)
        return next(gone, "")

    def pause_s(self, name: str) -> float:
        """How long to wait before the service is started again."""
        now = time.monotonic()
        lately = [at for at in self._restarts.get(name, ()) if now - at < RESTARTS_WITHIN_S]
        return FIRST_PAUSE_S * 2 ** (len(lately) - 1) if lately else 0.0

    def restart(self, name: str) -> bool:
        """Start a service that has ended again, and wait until it answers.

        False, and nothing done, when it ended `RESTARTS` times within `RESTARTS_WITHIN_S`. One that
        does not start has ended once more.
        """
        now = time.monotonic()
        before = self._restarts.setdefault(name, deque(maxlen=RESTARTS))
        if len(before) == RESTARTS and now - before[0] < RESTARTS_WITHIN_S:
            return False
        before.append(now)
        service = next(each for each in self._services if each.name == name)
        try:
            self._say(name, self._start(service))
        except StartupError as error:
            self._say(name, error.message)
        return True

    def log_tail(self, name: str) -> str:
        """The last lines that a service logged."""
        text = (self._logs / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-LOG_LINES:])

    def rotate(self) -> None:
        """Rotate the logs that have grown long; the services go on writing to theirs."""
        for name in self._running:
            log = self._logs / f"{name}.log"
            if log.exists() and log.stat().st_size > LOG_BYTES:
                _shift(log)
                # The service holds the file open, so its content moves; it appends, so that what
                # comes next stands at the begin. Lines of the moment between the two are lost.
                shutil.copyfile(log, log.with_name(f"{log.name}.1"))
                os.truncate(log, 0)

    def stop(self, grace_seconds: float = 30.0) -> None:
        """Stop in reverse order: ask, wait, and only then kill."""
        for name in reversed(list(self._running)):
            process = self._running.pop(name)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(grace_seconds)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _start(self, service: Service) -> str:
        """Start one service; what it said when it was ready."""
        log = self._logs / f"{service.name}.log"
        # A restart keeps what was said before.
        again = service.name in self._running
        if not again:
            _rotate(log)
        begin = log.stat().st_size if again else 0
        with log.open("ab") as stream:
            process = subprocess.Popen(
                bound_command([sys.executable, "-m", service.module]),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(self._environment),
                # Ctrl-C is for the parent, which stops the children in order.
                start_new_session=True,
            )
        self._running[service.name] = process
        return self._await_ready(service, process, begin)

    def _await_ready(self, service: Service, process: subprocess.Popen[bytes], begin: int) -> str:
        log = self._logs / f"{service.name}.log"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for line in log.read_bytes()[begin:].decode(errors="replace").splitlines():
                if (facts := ready_facts(line)) is not None:
                    return facts
            if process.poll() is not None:
                break
            time.sleep(POLL_SECONDS)
        raise StartupError(
            f"{service.name} did not start:\n{self.log_tail(service.name)}",
            code="SERVICE_FAILED",
            remedy=f"its log is {log}",
        )


def _rotate(log: Path) -> None:
    """Keep the logs of earlier runs: the one of a crash is wanted after the restart."""
    _shift(log)
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))


def _shift(log: Path) -> None:
    """Number the older logs one higher; the oldest goes."""
    for number in range(KEPT_LOGS, 1, -1):
        older = log.with_name(f"{log.name}.{number - 1}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number}"))


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `changes`, for children."""
    return {**os.environ, **changes}  # noqa: TID251 — handed on to the services, not read
