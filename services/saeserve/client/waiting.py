"""Why a job does not run yet."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve.v1 import job_pb2


@dataclass(frozen=True)
class Waiting:
    """Why a job does not run yet."""

    reason: str
    """For people, e.g. "no live worker of class gpu; place 1 of 3 in its queue"."""
    workers: int
    """Live workers of the job's resource class."""
    place: int | None
    """In the queue of its class, from 1; None while it is not known."""
    queued: int
    """Jobs in that queue."""
    returned: str
    """Why it went back into the queue, e.g. STALLED; empty before its first attempt."""


def waiting_value(waiting: job_pb2.Waiting) -> Waiting:
    """A Waiting off the wire."""
    return Waiting(
        waiting.reason, waiting.workers, waiting.place or None, waiting.queued, waiting.returned
    )
