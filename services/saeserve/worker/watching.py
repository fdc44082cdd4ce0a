"""Watches the process of an attempt until it ends, or has to."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from saeserve.worker.child import Child
from saeserve.worker.lease_keeper import LeaseKeeper
from saeserve.worker.stall import StallWatch

POLL_S = 0.1


@dataclass(frozen=True)
class Watched:
    """What was seen of an attempt's process."""

    code: int | None
    """None when the attempt was fenced and its process killed."""
    asked_to_stop: bool
    cancelled: bool
    stalled_s: float
    """How long nothing had moved when it was stopped for that; else 0."""
    step: int


def watch(
    child: Child, keeper: LeaseKeeper, stall: StallWatch, drain: threading.Event
) -> tuple[int | None, float]:
    """The exit code of `child` and how long it had stood still, 0 unless it was stopped for that.

    It is asked to stop where the job is cancelled or stalled or the worker drains, and killed
    where it does not, or where its lease is lost (the code is None then).
    """
    code, stalled_s = None, 0.0
    try:
        while (code := child.poll(POLL_S)) is None and not keeper.lost.is_set():
            if stall.over.is_set() and not child.stopping:
                stalled_s = stall.still_s
            if keeper.cancelled.is_set() or drain.is_set() or stalled_s:
                child.stop()
    finally:
        child.kill()
    return code, stalled_s
