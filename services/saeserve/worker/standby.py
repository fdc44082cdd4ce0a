"""Keeps a process ready that has loaded everything a job needs: see `standby_process`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from saeserve.worker.child import Child
from saeserve.worker.order import JobOrder
from saeserve.worker.standby_process import ROOM, Word

_log = logging.getLogger("saeserve.worker.standby")
_LOOK_S = 0.1
RENEW_S = 2.0
"""After a process was taken the next one is started this much later: the job's first step, which
the two would compete for, has been made by then."""
TAKE_S = 2.0
"""A process that has loaded everything and does not take an order within this time (it compiles
kernels, or stands still) is given up for a new one."""
LOAD_S = 60.0
"""The same for one that still loads."""
AFTER_DEATH_S = 10.0


def command(parent: int, pipe: int, threads: int) -> list[str]:
    """The command line of a standby process, with room for the order it will show."""
    words = [sys.executable, "-m", "saeserve.worker.standby_process"]
    return [*words, str(parent), str(pipe), str(threads), " " * ROOM]


@dataclass
class _Waiting:
    """A standby process, and what it has said so far."""

    child: Child
    pipe: int
    said: set[str] = field(default_factory=set[str])

    def listen(self, wait_s: float = 0.0) -> None:
        """Take in its words. The end of the pipe says that it took the order or died."""
        os.set_blocking(self.pipe, False)
        ends = time.monotonic() + wait_s
        while True:
            with contextlib.suppress(BlockingIOError):
                self.said |= set(os.read(self.pipe, 256).decode().split())
            if time.monotonic() >= ends or Word.TAKEN in self.said:
                return
            time.sleep(min(_LOOK_S / 5, max(0.0, ends - time.monotonic())))

    def discard(self) -> None:
        """Kill it and let go of the pipe."""
        self.child.kill()
        os.close(self.pipe)


class Standby:
    """A thread that starts the processes. It outlives them: the kernel ends a child together with
    the thread that started it (`PR_SET_PDEATHSIG`)."""

    def __init__(
        self,
        threads: int,
        stop_grace_s: float,
        make_command: Callable[[int, int, int], Sequence[str]] = command,
        renew_s: float = RENEW_S,
    ) -> None:
        """`threads` of torch, 0 for its own choice; `make_command(parent, pipe, threads)`."""
        self._threads, self._grace_s = threads, stop_grace_s
        self._command, self._renew_s = make_command, renew_s
        self._waiting: _Waiting | None = None
        self._not_before = 0.0
        self._lock = threading.Lock()
        self._stopped, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="standby-keeper", daemon=True)

    def start(self) -> None:
        """Have a process from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End the waiting process and start none; one that was taken goes on."""
        self._stopped.set()

    def close(self) -> None:
        """Stop, and end the thread: to be called when no job runs any more."""
        self._stopped.set()
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def warm(self) -> bool:
        """Whether the waiting process has loaded everything, kernels included."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.listen()
            return self._waiting is not None and Word.WARM in self._waiting.said

    @property
    def pid(self) -> int | None:
        """Process id of the waiting process; None while there is none."""
        with self._lock:
            return self._waiting.child.pid if self._waiting else None

    def take(self, order: JobOrder, give_up: Callable[[], bool]) -> Child | None:
        """The waiting process, with the order; None when there is none or it does not take it.

        Where `give_up()` comes true meanwhile, the process is returned as it is, to be stopped.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, None
            self._not_before = time.monotonic() + self._renew_s
        if waiting is None:
            return None
        if self._handed_over(waiting, order, give_up):
            os.close(waiting.pipe)
            return waiting.child
        _log.warning("standby process %d does not take its order: it is ended", waiting.child.pid)
        waiting.discard()
        return None

    def _handed_over(self, waiting: _Waiting, order: JobOrder, give_up: Callable[[], bool]) -> bool:
        if not waiting.child.tell(order.model_dump_json() + "\n"):
            return False
        loaded_at = None
        began = time.monotonic()
        while Word.TAKEN not in waiting.said:
            waiting.listen(_LOOK_S)
            if Word.TAKEN in waiting.said:
                return True
            now = time.monotonic()
            if Word.LOADED in waiting.said and loaded_at is None:
                loaded_at = now
            if give_up():
                return True
            late = now - began > LOAD_S if loaded_at is None else now - loaded_at > TAKE_S
            if late or waiting.child.ended:
                return False
        return True

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_S):
            with self._lock:
                self._look()
        with self._lock:
            self._drop()

    def _look(self) -> None:
        if self._stopped.is_set():
            self._drop()
        elif self._waiting is None:
            if time.monotonic() >= self._not_before:
                self._waiting = self._begin()
        elif self._waiting.child.ended:
            _log.warning("standby process %d died; another follows", self._waiting.child.pid)
            self._drop()
            self._not_before = time.monotonic() + AFTER_DEATH_S

    def _begin(self) -> _Waiting | None:
        mine, its = os.pipe()
        try:
            words = self._command(os.getpid(), its, self._threads)
            child = Child(words, self._grace_s, told=True, pipes=(its,))
        except OSError as error:
            os.close(mine)
            _log.warning("no standby process: %s", error)
            self._not_before = time.monotonic() + AFTER_DEATH_S
            return None
        finally:
            os.close(its)
        return _Waiting(child, mine)

    def _drop(self) -> None:
        if self._waiting is not None:
            self._waiting.discard()
            self._waiting = None
