"""The job state machine: pure, and the same for the ledger, the index and the API."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands; values equal the API's names without their prefix."""

    BLOCKED = "BLOCKED"
    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_S = JobState
TERMINAL = frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED})
LEASED = frozenset({_S.STARTING, _S.RUNNING, _S.PAUSING, _S.CANCELLING})
"""States in which a worker may hold the job's lease."""

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    _S.BLOCKED: frozenset({_S.QUEUED, _S.CANCELLING, _S.FAILED, _S.CANCELLED}),
    _S.QUEUED: frozenset(
        {_S.STARTING, _S.PAUSED, _S.CANCELLING, _S.CANCELLED, _S.FAILED, _S.SUCCEEDED}
    ),
    _S.STARTING: frozenset(
        {_S.RUNNING, _S.QUEUED, _S.PAUSING, _S.CANCELLING, _S.FAILED, _S.SUCCEEDED}
    ),
    _S.RUNNING: frozenset({_S.QUEUED, _S.PAUSING, _S.CANCELLING, _S.FAILED, _S.SUCCEEDED}),
    _S.PAUSING: frozenset({_S.PAUSED, _S.CANCELLING, _S.FAILED, _S.SUCCEEDED}),
    _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLING, _S.CANCELLED}),
    _S.CANCELLING: frozenset({_S.CANCELLED, _S.FAILED, _S.SUCCEEDED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}


def may_become(old: JobState, new: JobState) -> bool:
    """Whether a job in `old` may move to `new`."""
    return new in TRANSITIONS[old]
