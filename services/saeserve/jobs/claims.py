"""Claiming an attempt: the epoch is the fencing token, and the store hands each out once."""

from __future__ import annotations

from saeserve.jobs import attempts, documents
from saeserve.jobs.checkpoints import resume_point
from saeserve.jobs.errors import AttemptsExhausted, JobFinished
from saeserve.jobs.layout import attempt_key, job_key
from saeserve.jobs.record import Claim, Result, Submission
from saeserve.platform.store import ArtifactStore


def claim(store: ArtifactStore, submission: Submission, owner: str, now: float) -> Claim:
    """Begin the next attempt: epoch 1 + the highest, resuming from the newest valid checkpoint.

    `now` in seconds since the epoch. Raises JobFinished when a result is committed, and
    AttemptsExhausted when all attempts are charged.
    """
    while True:
        result = documents.read(store, job_key(submission.id, "result.json"), Result)
        if result is not None:
            raise JobFinished(submission.id, result.state)
        proposed = _propose(store, submission, owner, now)
        key = f"{attempt_key(submission.id, proposed.epoch)}/claim.json"
        # Losing means that another owner has just taken this epoch; the next one is free.
        if documents.commit(store, key, proposed):
            return proposed


def charged(store: ArtifactStore, job: str) -> int:
    """Attempts that count against `max_attempts`."""
    return sum(claim.charged for claim in attempts.claims(store, job))


def exhausted(store: ArtifactStore, submission: Submission) -> bool:
    """Whether the next attempt would exceed `max_attempts`."""
    return (
        _next_is_charged(store, submission.id)
        and charged(store, submission.id) >= submission.max_attempts
    )


def _propose(store: ArtifactStore, submission: Submission, owner: str, now: float) -> Claim:
    # Read once and first: should another owner claim meanwhile, this epoch is taken and the
    # commit fails, so that the resume point always belongs to the chain of the claim before.
    epoch = attempts.highest_epoch(store, submission.id) + 1
    if exhausted(store, submission):
        raise AttemptsExhausted(submission.id, submission.max_attempts)
    point = resume_point(store, submission.id)
    return Claim(
        job=submission.id,
        epoch=epoch,
        owner=owner,
        resume=point.checkpoint.key if point.checkpoint else "",
        resume_step=point.checkpoint.step if point.checkpoint else 0,
        charged=_next_is_charged(store, submission.id),
        corrupt=point.corrupt,
        time=now,
    )


def _next_is_charged(store: ArtifactStore, job: str) -> bool:
    highest = attempts.highest_epoch(store, job)
    return highest == 0 or not attempts.released(store, job, highest)
