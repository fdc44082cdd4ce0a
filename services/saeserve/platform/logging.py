"""Logs go to stderr, one line an event: as text, or as a JSON object for machines.

A JSON object has time, level, logger and message; `job`, `attempt` and `request` where they are
known, and `exception` with the whole traceback in one field.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from typing_extensions import override

FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
LogFormat = Literal["text", "json"]
_uncaught = logging.getLogger("saeserve")
_READY = "ready "

_job: dict[str, str | int] = {}
"""Job fields of the process, not of a thread: one job runs at a time, in several threads."""
_request: ContextVar[str] = ContextVar("request", default="")


def configure(level: str = "INFO", form: LogFormat = "text") -> None:
    """Send every record of `level` and above to stderr, in UTC. May be called again."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else formatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if form == "json":
        # What Python itself would write over many lines.
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_of_thread


def as_json() -> bool:
    """Whether this process logs JSON."""
    return any(isinstance(each.formatter, JsonFormatter) for each in logging.getLogger().handlers)


def formatter() -> logging.Formatter:
    """How every record is written as text."""
    made = logging.Formatter(FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    made.converter = time.gmtime
    return made


class JsonFormatter(logging.Formatter):
    """A record as one JSON object on one line."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        when = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_job,
        }
        if request := _request.get():
            fields["request"] = request
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = record.stack_info
        return json.dumps(fields, ensure_ascii=False, default=str)


@contextmanager
def of_job(job: str, attempt: int) -> Generator[None]:
    """Within the block every line of this process names the job that runs in it."""
    _job.update(job=job, attempt=attempt)
    try:
        yield
    finally:
        _job.clear()


def of_request(request: str) -> None:
    """From here on lines of this call name it by `request`."""
    _request.set(request)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _uncaught.critical("uncaught exception: %s", error, exc_info=(kind, error, trace))


def _log_uncaught_of_thread(caught: threading.ExceptHookArgs) -> None:
    error = caught.exc_value or caught.exc_type()
    _log_uncaught(caught.exc_type, error, caught.exc_traceback)


def ready(service: str, **facts: object) -> None:
    """Log the one line that says that `service` answers, with `facts` as key=value; whatever the
    level is, for `saeserve up` waits for it."""
    text = " ".join(f"{key}={value}" for key, value in facts.items())
    log = logging.getLogger(f"saeserve.{service}")
    log.handle(log.makeRecord(log.name, logging.INFO, "", 0, _READY + text, (), None))


def ready_facts(line: str) -> str | None:
    """The facts, where `line` of a log in either format is that of `ready`; otherwise None."""
    if not line.startswith("{"):
        _, found, facts = line.partition(f": {_READY}")
        return facts if found else None
    try:
        message = str(json.loads(line).get("message", ""))
    except ValueError:
        return None
    return message.removeprefix(_READY) if message.startswith(_READY) else None
