"""The ledger: what the store says about jobs. The store arbitrates; the index is derived.

Every commit is one put-if-absent object, written after the files it names (docs/DESIGN.md, "Jobs").
Reads raise RecordUnreadable for a damaged document, and NotFound for an unknown job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from saeserve.jobs import attempts, claims, documents, fence, layout
from saeserve.jobs.errors import no_job
from saeserve.jobs.events import (
    EVENTS,
    WORKER_EVENTS,
    await_writers,
    merged,
    newest_first,
    tail,
)
from saeserve.jobs.progress import ended
from saeserve.jobs.record import (
    Claim,
    Event,
    Failure,
    JobRecord,
    Lease,
    Progress,
    Resolution,
    Result,
    Submission,
)
from saeserve.jobs.sink import StoreCheckpointSink
from saeserve.jobs.states import JobState
from saeserve.jobs.submitting import commit_submission, forget_request, requested_job
from saeserve.platform.store import ArtifactStore


class Ledger:
    """All commits and readings of the job documents below one store."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store

    def submit(self, submission: Submission) -> Submission:
        """Commit a job; the same owner, request id and body give the job of the first call.

        Raises Conflict when the request id stands for another body.
        """
        return commit_submission(self.store, submission)

    def requested(self, owner: str, request_id: str, body_sha256: str) -> str | None:
        """The job that a request id stands for, recorded or not; None for a new request id.

        Raises Conflict when it stands for another body.
        """
        return requested_job(self.store, owner, request_id, body_sha256)

    def submission(self, job: str) -> Submission:
        """What was submitted. Raises NotFound."""
        found = documents.read(self.store, layout.job_key(job, "job.json"), Submission)
        if found is None:
            raise no_job(job)
        return found

    def exists(self, job: str) -> bool:
        """Whether the job was committed."""
        return self.store.exists(layout.job_key(job, "job.json"))

    def jobs(self) -> list[str]:
        """Ids of all committed jobs, oldest first."""
        names = self.store.names("jobs")
        return [job for job in names if self.exists(job)]

    def claim(self, job: str, owner: str, now: float) -> Claim:
        """Begin the next attempt; `now` in seconds since the epoch.

        Raises AttemptsExhausted, or JobFinished when a result is committed (both ClaimRefused).
        """
        return claims.claim(self.store, self.submission(job), owner, now)

    def highest_epoch(self, job: str) -> int:
        """The latest claimed epoch; 0 when the job was never claimed."""
        return attempts.highest_epoch(self.store, job)

    def superseded(self, job: str, epoch: int) -> bool:
        """Whether attempt `epoch` was overtaken: by a later claim, or by a result not its own."""
        if self.highest_epoch(job) > epoch:
            return True
        result = self.result(job)
        own = result is not None and result.epoch == epoch and result.state is JobState.SUCCEEDED
        return result is not None and not own

    def check_fence(self, lease: Lease) -> None:
        """Raise Fenced when the attempt of `lease` may change nothing any more."""
        fence.check_fence(self.store, lease.job, lease.epoch)

    def exhausted(self, job: str) -> bool:
        """Whether no further attempt would be granted."""
        return claims.exhausted(self.store, self.submission(job))

    def attempt_key(self, job: str, epoch: int) -> str:
        """Key of an attempt's folder."""
        return layout.attempt_key(job, epoch)

    def mark_released(self, lease: Lease) -> bool:
        """Commit that the attempt ended by a drain, so that the next one is not charged."""
        return attempts.mark_released(self.store, lease)

    def failure(self, job: str, epoch: int) -> Failure | None:
        """What the attempt's job process left in `error.json`."""
        return attempts.failure_of(self.store, job, epoch)

    def write_failure(self, lease: Lease, failure: Failure) -> bool:
        """Leave `error.json`; False when one stands."""
        return attempts.write_failure(self.store, lease, failure)

    def events(self, job: str) -> list[Event]:
        """What the job's processes wrote; in each attempt the ops are 0, 1, 2 and so on."""
        return [event for folder in self._folders(job) for event in tail(folder / EVENTS)]

    def history(self, job: str) -> list[Event]:
        """`events`, and what the workers wrote about the attempts, in the order of time."""
        return [event for folder in self._folders(job) for event in merged(folder)]

    def complete_history(self, job: str) -> list[Event]:
        """`history` of a job whose result is committed: nothing is written after this reading."""
        return _complete(self._folders(job))

    def earlier_history(self, claim: Claim) -> list[Event]:
        """`history` of the attempts before `claim`, which fences them: as `complete_history`."""
        return _complete(self._folders(claim.job, claim.epoch))

    def _folders(self, job: str, before: int | None = None) -> Iterator[Path]:
        for epoch in attempts.epochs(self.store, job):
            if before is None or epoch < before:
                yield self.store.path(self.attempt_key(job, epoch))

    def event_count(self, job: str) -> int:
        """How many events `history` would read; opens the files, but parses nothing."""
        folders = [self.attempt_key(job, epoch) for epoch in attempts.epochs(self.store, job)]
        files = [f"{folder}/{name}" for folder in folders for name in (EVENTS, WORKER_EVENTS)]
        logs = [self.store.read(file) for file in files]
        return sum(log.count(b"\n") for log in logs if log is not None)

    def resolve(self, job: str, resolution: Resolution) -> bool:
        """Commit what the job's fields are resolved to; False when an attempt did so before."""
        return documents.commit(self.store, layout.job_key(job, "resolved.json"), resolution)

    def resolution(self, job: str) -> Resolution | None:
        """What a worker resolved the job's fields to; None while none did or had to."""
        return documents.read(self.store, layout.job_key(job, "resolved.json"), Resolution)

    def checkpoint_sink(self, lease: Lease) -> StoreCheckpointSink:
        """Where the job process of this attempt commits its checkpoints."""
        return StoreCheckpointSink(self.store, lease)

    def finish(self, result: Result) -> Result:
        """Commit a job's result; the first writer wins, and its result is returned."""
        key = layout.job_key(result.job, "result.json")
        if documents.commit(self.store, key, result):
            return result
        return documents.read(self.store, key, Result) or result

    def result(self, job: str) -> Result | None:
        """The committed result, which makes the job terminal."""
        return documents.read(self.store, layout.job_key(job, "result.json"), Result)

    def request_cancel(self, job: str) -> bool:
        """Commit a cancel request; False when there was one before."""
        return self.store.put_if_absent(layout.job_key(job, "cancel.json"), b"{}\n")

    def cancel_requested(self, job: str) -> bool:
        """Whether cancel.json stands in the store; what the index says does not matter."""
        return self.store.exists(layout.job_key(job, "cancel.json"))

    def delete(self, submission: Submission) -> None:
        """Remove a job's documents, and the request id that stands for it, which comes first: a
        crash in between leaves a job that can be deleted again."""
        forget_request(self.store, submission)
        self.store.remove(f"jobs/{submission.id}")

    def unmet(self, submission: Submission) -> list[str]:
        """The jobs that `submission` still waits for."""
        return [job for job in submission.waits_for if not self._succeeded(job)]

    def record(self, job: str) -> JobRecord:
        """The job as the store alone tells it. Raises NotFound.

        A claimed attempt that neither drained nor finished counts as RUNNING: only its lease,
        which the index keeps, can tell more.
        """
        submission = self.submission(job)
        record = self._unfinished(submission)
        result = self.result(job)
        if result is None:
            return record
        return ended(record, result, self._newest_first(job))

    def _newest_first(self, job: str) -> Iterator[Event]:
        for folder in reversed(list(self._folders(job))):
            yield from newest_first(folder / EVENTS)

    def _unfinished(self, submission: Submission) -> JobRecord:
        made = list(attempts.claims(self.store, submission.id))
        record = JobRecord(
            submission=submission,
            state=JobState.BLOCKED if self.unmet(submission) else JobState.QUEUED,
            attempt=sum(claim.charged for claim in made),
        )
        if not made:
            return record
        last = made[-1]
        begun = {
            "epoch": last.epoch,
            "started": made[0].time,
            "progress": Progress(step=last.resume_step),
        }
        if attempts.released(self.store, submission.id, last.epoch):
            return record.model_copy(update={**begun, "state": JobState.QUEUED})
        cancelling = self.cancel_requested(submission.id)
        state = JobState.CANCELLING if cancelling else JobState.RUNNING
        return record.model_copy(update={**begun, "state": state, "owner_id": last.owner})

    def _succeeded(self, job: str) -> bool:
        result = self.result(job)
        return result is not None and result.state is JobState.SUCCEEDED


def _complete(folders: Iterable[Path]) -> list[Event]:
    """All events of attempts that are fenced already."""
    events: list[Event] = []
    for folder in folders:
        await_writers(folder)
        events.extend(merged(folder))
    return events
