"""The embedded broker: a Valkey (or Redis) server of our own, for one machine.

`python -m saeserve.platform.broker` runs it in the foreground; `Broker` starts and stops it from
Python. Its data lie below the run directory and outlive it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn, Self

from saeserve.errors import StartupError
from saeserve.platform import logging, service
from saeserve.platform.broker_server import (
    BUNDLED,
    arguments,
    end,
    find_server,
    lock,
)
from saeserve.platform.process import bound_command
from saeserve.platform.redis import answers
from saeserve.platform.settings import BrokerSettings
from saeserve.platform.startup_errors import bad_setting

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LOG_TAIL_LINES = 12
# sun_path holds 108 bytes on Linux and 104 on macOS, with the final zero.
MAX_SOCKET_PATH = 103


class Broker:
    """One server process, bound to the life of the thread that starts it.

    It listens on `<run>/valkey.sock`, and on 127.0.0.1:`port` when port is not 0. `server` is as in
    BrokerSettings.
    """

    def __init__(self, run: Path, *, server: str = BUNDLED, port: int = 0) -> None:
        self.folder = run.resolve() / "broker"
        self.socket = run.resolve() / "valkey.sock"
        self._server = server
        self._port = port
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL for `platform.redis.connect`."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """Process id of the server, once started."""
        return self._started().pid

    def start(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Start and wait until it answers. Raises StartupError, leaving nothing running.

        Of two launches in one folder the second raises BrokerRunningError.
        """
        binary = find_server(self._server)
        self._check_socket_path()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = lock(self.folder)
        try:
            self._process = self._launch(binary, self._lock)
            os.pwrite(self._lock, str(self.pid).encode(), 0)
            self._wait_until_ready(timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the server in order; does nothing when it has ended."""
        process, self._process = self._process, None
        if process is not None:
            end(process, timeout_s)
        handle, self._lock = self._lock, None
        if handle is not None:
            os.close(handle)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Exit status of the server once it has ended by itself; None when it still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._started().wait(timeout_s)
        return None

    def failed(self, what: str) -> StartupError:
        """An error that says what happened and shows the end of the server's log."""
        lines = (self.folder / "server.log").read_text(errors="replace").splitlines()
        tail = "\n".join(lines[-LOG_TAIL_LINES:])
        return StartupError(
            f"the broker {what}; its log in {self.folder} ends:\n{tail}\n",
            code="BROKER_FAILED",
            remedy="correct what the log names, or set SAESERVE_REDIS_URL to a running server",
        )

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the broker is not started; this is a bug")
        return self._process

    def _check_socket_path(self) -> None:
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH:
            raise bad_setting(
                f"the socket path {self.socket} is longer than {MAX_SOCKET_PATH} bytes",
                remedy="set SAESERVE_RUN to a shorter path",
            )

    def _launch(self, binary: Path, handle: int) -> subprocess.Popen[bytes]:
        command = [str(binary), *arguments(self.folder, self.socket, self._port)]
        with open(self.folder / "server.log", "wb") as output:
            return subprocess.Popen(
                bound_command(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # The server holds the lock too, so it is free only when the server has gone.
                pass_fds=(handle,),
                # Ctrl-C in a terminal reaches its whole group; the launcher decides instead.
                process_group=0,
            )

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            status = self.wait(0.02)
            if status is not None:
                raise self.failed(f"ended with status {status}")
            if answers(self.url):
                return
        raise self.failed(f"did not answer within {timeout_s:g} s")


def main() -> None:
    """Run the broker in the foreground until a signal. Raises StartupError when it fails."""
    settings = BrokerSettings.load()
    logging.configure(settings.log_level, settings.log_format)
    settings.protect_files()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    with Broker(settings.run, server=settings.broker_server, port=settings.broker_port) as broker:
        logging.ready("broker", url=broker.url, pid=broker.pid, port=settings.broker_port)
        raise broker.failed(f"ended with status {broker.wait()}")


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    service.run("broker", main)
