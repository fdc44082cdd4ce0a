"""A value that is made in the background while the one before it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Calls `make` on a thread of its own, which ends with it: there is nothing to shut down.

    The thread does not keep the process alive.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def result(self) -> T:
        """The value, waiting for it; raises what `make` raised. To be called once: the value is
        then the caller's alone."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._made.pop()

    def discard(self) -> None:
        """Wait for the thread's end and let its value go, so that two never stand in memory."""
        self._thread.join()
        self._made.clear()

    def _run(self) -> None:
        try:
            self._made.append(self._make())
        except BaseException as error:
            self._error = error
