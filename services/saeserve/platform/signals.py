"""Act on signals without the locks that a signal handler must not take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue


class SignalActor:
    """Runs `action` on a thread of its own, once, after `request` was called.

    Python runs a signal's handler between any two instructions of the main thread, also while
    that thread is inside `threading.Event.set` or `wait`, or in the handler of an earlier signal.
    A handler that calls `set` then waits for ever for the event's lock, which the code under it
    holds. `SimpleQueue.put` is the call that the standard library declares reentrant.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        """Nothing is called yet; the thread waits."""
        self._action = action
        self._requests: SimpleQueue[bool] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="signal-actor", daemon=True)
        self._thread.start()

    def request(self, *_: object) -> None:
        """Have the action run. May be called at any time, as often as wanted, as a handler too."""
        self._requests.put(True)

    def handle(self, numbers: Iterable[signal.Signals]) -> None:
        """Request the action at each of these signals. Only the main thread may call this."""
        for number in numbers:
            signal.signal(number, self.request)

    def close(self) -> None:
        """End the thread. What was requested before has been done on return."""
        self._requests.put(False)
        self._thread.join()

    def _run(self) -> None:
        if self._requests.get():
            self._action()
            # Later requests change nothing; the thread is left for `close` to end.
            while self._requests.get():
                pass
