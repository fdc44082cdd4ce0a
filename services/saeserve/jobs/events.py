"""What happened in an attempt, one line an event, before anybody else knows.

The job process writes `events.jsonl`. What its worker has to say of it stands in a file of its own,
`worker.jsonl`, so that neither has to wait for the other, which may stand still.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from saeserve.core.durable import make_folders
from saeserve.jobs.payloads import EventPayload
from saeserve.jobs.record import Event

_log = logging.getLogger("saeserve.jobs.events")

EVENTS, WORKER_EVENTS = "events.jsonl", "worker.jsonl"
"""Files in the attempt's folder."""
PATIENCE_S = 1.0
"""How long a writer in the middle of an event is waited for; one that is suspended there for
longer can leave that one event after the job's end."""


class EventLog:
    """The log of one attempt, appended by its job process or its worker; for their ops see
    `Event`."""

    def __init__(
        self,
        path: Path,
        epoch: int,
        *,
        by_worker: bool = False,
        check_fence: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or create `path`; a torn last line of an earlier process is cut off.

        `check_fence` is called before each event and raises where none may be written any more.
        """
        self._epoch = epoch
        self._check_fence = check_fence
        self._clock = clock
        make_folders(path.parent)
        written = _mend(path)
        self._next_op, self._direction = (-2 - written, -1) if by_worker else (written, 1)
        # Unbuffered: what does not fit must not wait for `close`.
        self._file = FileIO(path, "ab")
        self._end = self._file.seek(0, os.SEEK_END)

    def append(self, payload: EventPayload, *, step: int = 0) -> Event:
        """Write one event and hand it to the operating system, so that it outlives the process.

        Of a line that does not fit, nothing stays. Raises Fenced where `check_fence` does.
        """
        with _locked(self._file):
            if self._check_fence is not None:
                self._check_fence()
            return self._append(payload, step)

    def _append(self, payload: EventPayload, step: int) -> Event:
        event = Event(
            epoch=self._epoch, op=self._next_op, time=self._clock(), step=step, payload=payload
        )
        self._write(event.model_dump_json().encode() + b"\n")
        self._next_op += self._direction
        return event

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[write_some(self._file, rest) :]
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end += len(line)

    def touch(self) -> None:
        """Change the file's time alone, which is a sign of life. Raises OSError."""
        os.utime(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def write_some(file: FileIO, data: memoryview) -> int:
    """One unbuffered write; the bytes that it took."""
    return file.write(data)


@contextlib.contextmanager
def _locked(file: FileIO) -> Generator[None]:
    """Hold the file's lock between the look at the fence and the event; see `await_writers`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        # A file system without locks: the look at the fence alone must do.
        _log.debug("events are written without a lock: %s", error)
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def await_writers(folder: Path) -> None:
    """Wait until no process is in the middle of an event of the attempt in `folder`.

    Called when the attempt is fenced already: whoever writes after this sees the fence, so nothing
    is written that a reading after this lacks. Waits at most PATIENCE_S for each file.
    """
    for name in (EVENTS, WORKER_EVENTS):
        with contextlib.suppress(FileNotFoundError), open(folder / name, "rb") as file:
            _await_writer(file.fileno())


def _await_writer(file: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                _log.warning("a process stands still in the middle of an event: not waited for")
                return
            time.sleep(0.005)
        except OSError:
            return
        else:
            return


class EventTail:
    """Follows a log that another process appends to, reading every line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[Event]:
        """Events completed since the last call; a line without its end waits for the next one."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = (_parse(self._path, line) for line in whole.splitlines())
        return [event for event in events if event is not None]


def tail(path: Path, from_op: int = 0) -> list[Event]:
    """Events of the log with `op >= from_op`; empty when there is no log yet."""
    return [event for event in EventTail(path).read() if event.op >= from_op]


def newest_first(path: Path) -> Iterator[Event]:
    """Events of the log from the last one on; none when there is no log. Parses only what is
    asked for."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    events = (_parse(path, line) for line in reversed(whole.splitlines()))
    return (event for event in events if event is not None)


def merged(folder: Path) -> list[Event]:
    """All events of the attempt in `folder`, those of its job process and of its worker each in
    their order, and together in that of time."""
    logs = (EventTail(folder / name).read() for name in (EVENTS, WORKER_EVENTS))
    return list(heapq.merge(*logs, key=lambda event: event.time))


def _parse(path: Path, line: bytes) -> Event | None:
    """Parse a line; one that a power loss damaged is logged and skipped: None."""
    try:
        return Event.model_validate_json(line)
    except ValidationError:
        _log.warning("%s: a damaged line of %d bytes is passed over", path, len(line))
        return None


def _mend(path: Path) -> int:
    """Cut a torn last line off; how many ops the whole lines have taken."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    ops = (-1 - event.op if event.by_worker else event.op + 1 for event in EventTail(path).read())
    return max(ops, default=0)
