"""The log of an attempt, kept in the store where `saeserve jobs logs` finds it."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
from collections.abc import Generator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from typing_extensions import override

from saeserve.jobs.layout import attempt_key
from saeserve.jobs.record import Lease
from saeserve.platform.logging import formatter
from saeserve.platform.store import ArtifactStore
from saeserve.worker.order import JobOrder

NAME = "log.txt"
MAX_BYTES = 4 * 2**20
"""Maximum size of log.txt and of log.txt.1, the lines before it; older ones are dropped."""
LAST_BYTES = 16 * 2**10
"""Bytes at the end of the log that `last_words` reads."""
_STDERR = 2

_log = logging.getLogger("saeserve.worker.job")


def log_path(order: JobOrder) -> Path:
    """Where the log of the attempt lies."""
    return log_of(ArtifactStore(order.store), order.lease)


def log_of(store: ArtifactStore, lease: Lease) -> Path:
    """The same for the attempt of `lease`."""
    return store.path(f"{attempt_key(lease.job, lease.epoch)}/{NAME}")


@contextlib.contextmanager
def kept_log(path: Path) -> Generator[None]:
    """Write every record to `path` as well. A store that refuses the file costs only the log."""
    try:
        handler = _KeptLog(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8")
    except OSError as error:
        _log.warning("the log of this attempt is not kept: %s", error)
        yield
        return
    handler.setFormatter(formatter())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def keep_last_words(path: Path) -> None:
    """Let native code that aborts leave its last words and its Python stack in `path`, as far as
    that can be opened: from now on file descriptor 2 is this file.

    What Python itself writes to `sys.stderr` goes where it went; so log to it after this.
    """
    with contextlib.suppress(OSError), path.open("ab") as file:
        was = os.dup(_STDERR)
        os.dup2(file.fileno(), _STDERR)
        sys.stderr = open(was, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115 — lives as long as the process
        faulthandler.enable(_STDERR)


def last_words(path: Path) -> str:
    """The end of the attempt's log; "" where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(-min(LAST_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


class _KeptLog(RotatingFileHandler):
    """Takes file descriptor 2 along to the new file where it is this one."""

    @override
    def doRollover(self) -> None:
        before = self.stream
        shared = before is not None and os.path.sameopenfile(before.fileno(), _STDERR)
        super().doRollover()
        if shared and (stream := self.stream) is not None:
            os.dup2(stream.fileno(), _STDERR)
