"""The fence: what an attempt asks of the store before it commits, publishes or removes anything."""

from __future__ import annotations

from saeserve.jobs.attempts import highest_epoch
from saeserve.jobs.errors import Fenced
from saeserve.jobs.layout import job_key
from saeserve.platform.store import ArtifactStore


def superseded_by(store: ArtifactStore, job: str, epoch: int) -> str:
    """What took the job from attempt `epoch`: a later attempt, a committed result or the job's
    deletion; "" if none.

    A result fences as a claim does: whoever committed it, an attempt that goes on after it would
    publish for a job that has ended.
    """
    highest = highest_epoch(store, job)
    if highest > epoch:
        return f"attempt {highest}"
    if store.exists(job_key(job, "result.json")):
        return "the job's committed result"
    # Other jobs are there and this one is not; a store that is away shows none at all.
    if store.exists("jobs") and not store.exists(job_key(job, "job.json")):
        return "the job's deletion"
    return ""


def check_fence(store: ArtifactStore, job: str, epoch: int) -> None:
    """Raise Fenced when attempt `epoch` may change nothing any more."""
    by = superseded_by(store, job, epoch)
    if by:
        raise Fenced(job, epoch, by)
