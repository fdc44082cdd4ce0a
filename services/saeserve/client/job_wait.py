"""Waiting for a job to end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from saeserve.client.errors import DeadlineError, OverloadedError, UnavailableError
from saeserve.client.refusals import timed_out
from saeserve.client.retries import Patience
from saeserve.client.values import Job

_LAST_LOOK_S = 0.5
"""What a look may take when the time is over."""


class Waiter:
    """Asks for a job until it has ended."""

    def __init__(self, get: Callable[[str, float], Job], each: float) -> None:
        """`get` asks once; the seconds that it may take are `each` at most."""
        self._get = get
        self._each = each

    def wait(self, job: str, poll_seconds: float, timeout: float | None) -> Job:
        """The job as it ended. Raises DeadlineError after `timeout` seconds, OverloadedError and
        UnavailableError where the server stays away."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        patience = Patience()
        while True:
            left = max(end - time.monotonic(), _LAST_LOOK_S)
            try:
                seen = self._get(job, min(self._each, left))
            except (UnavailableError, OverloadedError) as error:
                patience.failed(error, progressed=False, most_s=left)
            else:
                if seen.done:
                    return seen
                patience = Patience()
                if time.monotonic() >= end:
                    raise _still_running(seen, timeout or 0.0)
                time.sleep(min(poll_seconds, max(end - time.monotonic(), 0.0)))


def _still_running(job: Job, timeout: float) -> DeadlineError:
    return timed_out(
        f"job {job.id} is still {job.state} after {timeout:g} seconds",
        remedy="the job goes on: wait again, or cancel it",
    )
