"""How often and how long a transfer tries again."""

from __future__ import annotations

import time

from saeserve.client.errors import ClientError

ATTEMPTS = 6
FIRST_WAIT_S = 0.5
_CODES = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"})
"""A server that stops cancels what still runs after its grace period."""
_REASONS = frozenset({"UPLOAD_BUSY"})
"""The server may hold a broken stream's file open for a moment."""


class Patience:
    """Gives up after `ATTEMPTS` failures in a row during which nothing arrived."""

    def __init__(self) -> None:
        self._failures = 0

    def failed(self, error: ClientError, *, progressed: bool) -> None:
        """Wait before the next try: longer each time, and as long as the server asks.

        Raises `error` when another try would not help, or when there have been enough.
        """
        self._failures = 1 if progressed else self._failures + 1
        hopeful = error.code in _CODES or error.reason in _REASONS
        if not hopeful or self._failures == ATTEMPTS:
            raise error
        time.sleep(max(error.retry_after_s, FIRST_WAIT_S * 2.0 ** (self._failures - 1)))
