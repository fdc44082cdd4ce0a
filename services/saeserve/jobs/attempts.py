"""Attempts as the store shows them: claims, drains, and the failures that ended them."""

from __future__ import annotations

from collections.abc import Iterator

from saeserve.jobs import documents
from saeserve.jobs.layout import attempt_key, job_key, numbered
from saeserve.jobs.record import Claim, Failure, Lease, Value
from saeserve.platform.store import ArtifactStore


class Released(Value):
    """What `released.json` holds: this attempt ended by a drain, by its own wish."""

    format_version: int = 1
    owner: str


def epochs(store: ArtifactStore, job: str) -> list[int]:
    """Claimed epochs, ascending. A folder without its claim is a claim that never happened."""
    found = numbered(store.names(job_key(job, "attempts")))
    return [epoch for epoch in found if store.exists(f"{attempt_key(job, epoch)}/claim.json")]


def highest_epoch(store: ArtifactStore, job: str) -> int:
    """The latest claimed epoch; 0 when the job was never claimed."""
    return max(epochs(store, job), default=0)


def claim_of(store: ArtifactStore, job: str, epoch: int) -> Claim | None:
    """Who took that attempt; None where nobody did."""
    return documents.read(store, f"{attempt_key(job, epoch)}/claim.json", Claim)


def claims(store: ArtifactStore, job: str) -> Iterator[Claim]:
    """All claims, by epoch."""
    for epoch in epochs(store, job):
        claim = claim_of(store, job, epoch)
        if claim is not None:
            yield claim


def released(store: ArtifactStore, job: str, epoch: int) -> bool:
    """Whether that attempt ended by a drain."""
    return store.exists(f"{attempt_key(job, epoch)}/released.json")


def mark_released(store: ArtifactStore, lease: Lease) -> bool:
    """Commit that the attempt ended by a drain; False when that was committed already."""
    key = f"{attempt_key(lease.job, lease.epoch)}/released.json"
    return documents.commit(store, key, Released(owner=lease.owner))


def failure_of(store: ArtifactStore, job: str, epoch: int) -> Failure | None:
    """What the job process of that attempt left in `error.json`."""
    return documents.read(store, f"{attempt_key(job, epoch)}/error.json", Failure)


def write_failure(store: ArtifactStore, lease: Lease, failure: Failure) -> bool:
    """Leave why the attempt failed; False when it did so before."""
    key = f"{attempt_key(lease.job, lease.epoch)}/error.json"
    return documents.commit(store, key, failure)
