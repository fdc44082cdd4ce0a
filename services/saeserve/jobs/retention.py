"""What attempts leave behind that no later attempt, and after a while no person, needs."""

from __future__ import annotations

from collections.abc import Iterator

from saeserve.jobs import attempts, checkpoints, documents
from saeserve.jobs.layout import attempt_key, checkpoint_key, job_key, numbered
from saeserve.jobs.record import Result
from saeserve.platform.leftovers import Leftover, last_change, size_of
from saeserve.platform.store import ArtifactStore

_EXPORT = "an export that an attempt had put together to publish"
_EARLIER = "a checkpoint that is not the last of a job that has ended"
_LAST = "the last checkpoint of a job that has ended"


def leftovers_of(
    store: ArtifactStore, job: str, *, keep_s: float, safe_s: float, now: float
) -> Iterator[Leftover]:
    """What can go of `job`, and what will: a job that has ended keeps its last checkpoint for
    `keep_s` seconds; what may still be written stays for `safe_s`.

    Raises RecordUnreadable for a damaged document of the job, of which nothing is concluded.
    """
    result = documents.read(store, job_key(job, "result.json"), Result)
    yield from _exports(store, job, safe_s, now, ended=result is not None)
    if result is not None:
        # Of two clocks the later: the worker's may have been wrong.
        written = store.path(job_key(job, "result.json")).stat().st_mtime
        yield from _checkpoints(store, job, keep_s - (now - max(result.time, written)))


def _exports(
    store: ArtifactStore, job: str, safe_s: float, now: float, *, ended: bool
) -> Iterator[Leftover]:
    epochs = numbered(store.names(job_key(job, "attempts")))
    running = 0 if ended else attempts.highest_epoch(store, job)
    for epoch in epochs:
        key = f"{attempt_key(job, epoch)}/export"
        if epoch == running or not store.exists(key):
            continue
        age = now - last_change(store.path(key))
        kept = f"changed {max(age, 0.0):.0f} s ago, less than {safe_s:.0f} s"
        yield Leftover(key, size_of(store.path(key)), _EXPORT, kept if age < safe_s else "")


def _checkpoints(store: ArtifactStore, job: str, left_s: float) -> Iterator[Leftover]:
    last = next(checkpoints.chain(store, job), None)
    for epoch in numbered(store.names(job_key(job, "attempts"))):
        for step in numbered(store.names(f"{attempt_key(job, epoch)}/checkpoints")):
            key = checkpoint_key(job, epoch, step)
            size = size_of(store.path(key))
            if last is None or key != last.key:
                yield Leftover(key, size, _EARLIER)
            else:
                kept = f"it is kept for {left_s / 3600:.1f} more hours" if left_s > 0 else ""
                yield Leftover(key, size, _LAST, kept)
