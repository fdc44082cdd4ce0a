"""Committing a submission once per request id, whatever crashes in between."""

from __future__ import annotations

from saeserve.errors import Conflict
from saeserve.jobs import documents
from saeserve.jobs.errors import RecordUnreadable
from saeserve.jobs.layout import job_key, request_key
from saeserve.jobs.record import JOB_FORMAT, Submission, Value
from saeserve.platform.store import ArtifactStore


class Request(Value):
    """What a request document holds: the job that the id stands for, and the body it came with."""

    format_version: int = JOB_FORMAT
    job: str
    body_sha256: str


def commit_submission(store: ArtifactStore, submission: Submission) -> Submission:
    """Commit `submission`, or return the job that its request id stands for already.

    The request document comes first and decides the id; a crash before `job.json` is healed by
    the retry, which commits it under that id. Raises Conflict for another body.
    """
    if submission.request_id:
        submission = submission.model_copy(update={"id": _reserve(store, submission)})
    key = job_key(submission.id, "job.json")
    if documents.commit(store, key, submission):
        return submission
    standing = documents.read(store, key, Submission)
    if standing is None:
        raise RecordUnreadable(key, "it vanished while it was read")
    if standing.request_id != submission.request_id or not submission.request_id:
        raise Conflict(
            f"job id {submission.id} is taken", code="JOB_EXISTS", remedy="take a new id"
        )
    return standing


def requested_job(
    store: ArtifactStore, owner: str, request_id: str, body_sha256: str
) -> str | None:
    """The job id that the request id stands for; None for a new one. Raises Conflict when the id
    came with another body."""
    standing = documents.read(store, request_key(owner, request_id), Request)
    if standing is None:
        return None
    if standing.body_sha256 != body_sha256:
        raise Conflict(
            f"request id {request_id!r} was used for job {standing.job} with another body",
            code="REQUEST_ID_REUSED",
            field="request_id",
            remedy="take a new request id, or repeat the first request unchanged",
        )
    return standing.job


def forget_request(store: ArtifactStore, submission: Submission) -> None:
    """Let a deleted job's request id be used again."""
    if not submission.request_id:
        return
    key = request_key(submission.owner, submission.request_id)
    standing = documents.read(store, key, Request)
    if standing is not None and standing.job == submission.id:
        store.remove(key)


def _reserve(store: ArtifactStore, submission: Submission) -> str:
    """The job id that the request id stands for."""
    key = request_key(submission.owner, submission.request_id)
    wanted = Request(job=submission.id, body_sha256=submission.body_sha256)
    if documents.commit(store, key, wanted):
        return wanted.job
    found = requested_job(store, submission.owner, submission.request_id, submission.body_sha256)
    return found or wanted.job
