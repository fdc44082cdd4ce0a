"""Errors of the job room; each also has a kind, so that the API answers rightly by itself."""

from __future__ import annotations

from saeserve.errors import FailedPrecondition, NotFound, ServiceError, Unavailable


class IndexUnavailable(Unavailable):
    """The index (Redis) is out of reach. Callers go on by the store or answer UNAVAILABLE."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(
            message,
            code="INDEX_UNAVAILABLE",
            remedy=remedy
            or "check that the broker at SAESERVE_REDIS_URL runs, then repeat the call",
        )


class ClaimRefused(FailedPrecondition):
    """The store does not let a new attempt of this job begin."""


class AttemptsExhausted(ClaimRefused):
    """All attempts that the job is allowed have been charged."""

    def __init__(self, job: str, attempts: int) -> None:
        super().__init__(
            f"job {job} has used its {attempts} attempts",
            code="ATTEMPTS_EXHAUSTED",
            remedy="read the error of the last attempt, then submit the job again",
        )


class JobFinished(ClaimRefused):
    """The job has a committed result already."""

    def __init__(self, job: str, state: str) -> None:
        super().__init__(
            f"job {job} is {state} already",
            code="JOB_FINISHED",
            remedy="submit the job again to run it",
        )


class Fenced(FailedPrecondition):
    """A later attempt has claimed the job, or it has ended; whoever gets this stops and commits,
    publishes and removes nothing."""

    def __init__(self, job: str, epoch: int, by: str) -> None:
        super().__init__(
            f"attempt {epoch} of job {job} is superseded by {by}",
            code="FENCED",
            remedy="nothing to do: the job goes on or has ended without this attempt",
        )


def no_job(job: str, field: str = "") -> NotFound:
    """The error for a job that is not there, or that its caller may not see."""
    return NotFound(
        f"there is no job {job}", code="JOB_NOT_FOUND", field=field, remedy="list the jobs"
    )


class EventsMissing(Exception):
    """The index has lost events of an attempt that it had: hand them over again, from the first."""

    def __init__(self, job: str, epoch: int, op: int) -> None:
        super().__init__(f"the index has lost event {op} of attempt {epoch} of job {job}")


class RecordUnreadable(ServiceError):
    """A committed document cannot be read: damaged, or written by a newer release."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(
            f"{key} in the artifact store cannot be read: {why}",
            code="RECORD_UNREADABLE",
            remedy="restore the file from a backup, or run the release that wrote it",
        )
