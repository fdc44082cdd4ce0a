"""A value that is made in the background while the one before it is used."""

from __future__ import annotations

import _thread
import contextvars
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
Call = Callable[[], None]
START_LOOKS, LOOK_S = 60, 1.0
"""A thread that has not begun after so many waits of one second never will."""


class Background:
    """One thread that runs what it is given, one call after the other, for as long as this object
    lives. It is started once, before memory is short, and does not keep the process alive.

    `threading.Thread.start` waits without end for a thread that runs out of memory before its
    first line. Here that raises MemoryError, as every other way to run out of memory does.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        begun, self._running = threading.Event(), threading.Lock()
        try:
            _thread.start_new_thread(_work, (self._calls, begun, self._running))
        except RuntimeError as error:
            raise MemoryError(f"the read-ahead thread did not start: {error}") from error
        if not any(begun.wait(LOOK_S) for _ in range(START_LOOKS)):
            raise MemoryError("the read-ahead thread did not start")
        weakref.finalize(self, self._calls.put, None).atexit = False

    @property
    def alive(self) -> bool:
        """Whether calls are still run."""
        return self._running.locked()

    def run(self, call: Call) -> None:
        """Run `call`, which catches its errors, after those given before."""
        self._calls.put(call)


class Ahead(Generic[T]):
    """Calls `make` on the thread of `background`."""

    def __init__(self, make: Callable[[], T], background: Background) -> None:
        self._make = make
        self._made: list[T] = []
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._background = background
        # In this thread's context: what is read ahead moves the work of whoever waits for it.
        context = contextvars.copy_context()
        background.run(lambda: context.run(self._run))

    @property
    def done(self) -> bool:
        """Whether `result` would not wait."""
        return self._done.is_set()

    def result(self) -> T:
        """The value, waiting for it; raises what `make` raised. To be called once: the value is
        then the caller's alone."""
        self._wait()
        if self._error is not None:
            raise self._error
        return self._made.pop()

    def discard(self) -> None:
        """Wait until `make` has ended and let its value go, so that two never stand in memory."""
        self._wait()
        self._made.clear()

    def _wait(self) -> None:
        while not self._done.wait(LOOK_S):
            if not self._background.alive and not self._done.is_set():
                raise MemoryError("the read-ahead thread ended before it had read")

    def _run(self) -> None:
        try:
            self._made.append(self._make())
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()


def _work(calls: SimpleQueue[Call | None], begun: threading.Event, running: threading.Lock) -> None:
    """The thread: `running` is held until it ends, for whatever reason."""
    with running:
        threading.current_thread().name = "read-ahead"
        begun.set()
        while (call := calls.get()) is not None:
            call()
            del call  # and with it the value, which is the caller's alone
