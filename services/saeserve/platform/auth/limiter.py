"""Rates of tokens: token buckets, held by each server process for itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from saeserve.errors import Overloaded
from saeserve.platform.auth.tokens import Limits, TokenRecord

BURST_S = 2.0
"""What a token did not use in the last so many seconds it may use at once."""


class Bucket:
    """Fills at `rate` a second up to `BURST_S` of it, and at least 1; may be overdrawn once."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate * BURST_S)
        self._level = self._most
        self._filled = now

    def debt_s(self, now: float) -> float:
        """Seconds until something is in it again; 0 when something is."""
        self._level = min(self._most, self._level + (now - self._filled) * self._rate)
        self._filled = now
        return 0.0 if self._level > 0 else -self._level / self._rate + 1e-3

    def take(self, amount: float) -> None:
        """Take `amount`, also more than is there."""
        self._level -= amount


class Usage:
    """What one token has used lately."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self._clock = clock
        now = clock()
        self._calls = Bucket(limits.calls_per_second, now) if limits.calls_per_second else None
        self._bytes = Bucket(limits.bytes_per_second, now) if limits.bytes_per_second else None

    def call(self) -> None:
        """Count a call. Raises Overloaded with the time after which one is let in."""
        now = self._clock()
        for bucket, what in ((self._calls, "calls"), (self._bytes, "bytes")):
            wait = bucket.debt_s(now) if bucket is not None else 0.0
            if wait:
                raise _limited(what, wait)
        if self._calls is not None:
            self._calls.take(1.0)

    def charge(self, size: int) -> float:
        """Count the bytes of a message; seconds until more may come."""
        if self._bytes is None:
            return 0.0
        self._bytes.take(size)
        return self._bytes.debt_s(self._clock())


class Limiter:
    """The usage of every token that has limits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usage: dict[str, Usage] = {}

    def of(self, record: TokenRecord) -> Usage | None:
        """What the token has used; None for one without limits of rate."""
        limits = record.limits
        if not limits.calls_per_second and not limits.bytes_per_second:
            return None
        known = self._usage.get(record.id)
        if known is None or known.limits != limits:
            known = self._usage[record.id] = Usage(limits, self._clock)
        return known


def _limited(what: str, wait_s: float) -> Overloaded:
    return Overloaded(
        f"the token has used up its {what} a second",
        retry_after_s=wait_s,
        code="RATE_LIMITED",
        remedy=f"call again in {wait_s:.1f} s, or ask the operator for a token with other limits",
    )
