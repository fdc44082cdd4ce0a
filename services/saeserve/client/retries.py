"""How often and how long calls are tried again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import TypeVar

from saeserve.client.errors import ClientError, OverloadedError
from saeserve.client.refusals import timed_out

T = TypeVar("T")

ATTEMPTS = 6
FIRST_WAIT_S = 0.5
_CODES = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"})
"""A server that stops cancels what still runs after its grace period."""
_HOPELESS = frozenset({"QUOTA_EXCEEDED"})
_REASONS = frozenset({"UPLOAD_BUSY"})
"""The server may hold a broken stream's file open for a moment."""


class Patience:
    """Gives up after `ATTEMPTS` failures in a row during which nothing arrived."""

    def __init__(self) -> None:
        self._failures = 0

    def failed(self, error: ClientError, *, progressed: bool, most_s: float = math.inf) -> None:
        """Wait before the next try: longer each time, and as long as the server asks, but no
        longer than `most_s` seconds.

        Raises `error` when another try would not help, or when there have been enough.
        """
        self._failures = 1 if progressed else self._failures + 1
        hopeful = error.code in _CODES or error.reason in _REASONS
        if error.reason in _HOPELESS or not hopeful or self._failures == ATTEMPTS:
            raise error
        wait = max(error.retry_after_s, FIRST_WAIT_S * 2.0 ** (self._failures - 1))
        time.sleep(min(wait, most_s))


def patiently(call: Callable[[float], T], seconds: float) -> T:
    """What `call` answers, which is given the seconds that are left; an overloaded server is asked
    again after the delay that it sends, within `seconds`.

    Raises OverloadedError when the delay would end too late, and as `call` does.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return call(until - time.monotonic())
        except OverloadedError as error:
            # Callers that were refused together must not all come back together.
            delay = error.retry_after_s * random.uniform(1.0, 1.5)
            if not delay or time.monotonic() + delay >= until:
                raise
            time.sleep(delay)


class Limit:
    """The seconds that a call of several requests may take; without, each request has its own."""

    def __init__(self, seconds: float | None, each: float = math.inf) -> None:
        """`each` is what one request may take where `seconds` is None."""
        self._seconds = seconds
        self._each = each
        self._begun = time.monotonic()

    def left(self) -> float:
        """What the next request may take. Raises DeadlineError when nothing is left."""
        if self._seconds is None:
            return self._each
        left = self._begun + self._seconds - time.monotonic()
        if left <= 0:
            raise timed_out(
                f"the {self._seconds:g} seconds that the call was given are over",
                remedy="give it a longer timeout; transfers go on when they are called again",
            )
        return left

    def stream(self) -> float | None:
        """Seconds left for a request that may last while it makes progress; None: no limit."""
        left = self.left()
        return None if left == math.inf else left
