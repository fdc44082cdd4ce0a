"""The log of an attempt, kept in the store where `saeserve jobs logs` finds it."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
from collections.abc import Generator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from saeserve.jobs.layout import attempt_key
from saeserve.platform.logging import formatter
from saeserve.platform.store import ArtifactStore
from saeserve.worker.order import JobOrder

NAME = "log.txt"
MAX_BYTES = 4 * 2**20
"""Maximum size of log.txt and of log.txt.1, the lines before it; older ones are dropped."""

_log = logging.getLogger("saeserve.worker.job")


def log_path(order: JobOrder) -> Path:
    """Where the log of the attempt lies."""
    claim = order.claim
    return ArtifactStore(order.store).path(f"{attempt_key(claim.job, claim.epoch)}/{NAME}")


@contextlib.contextmanager
def kept_log(path: Path) -> Generator[None]:
    """Write every record to `path` as well. A store that refuses the file costs only the log."""
    try:
        handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8")
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


def keep_crash_traces(path: Path) -> None:
    """Let a crash in native code write its Python stack to `path`, as far as that can be opened."""
    with contextlib.suppress(OSError):
        faulthandler.enable(path.open("ab"))
