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
