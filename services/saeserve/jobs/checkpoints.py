"""Checkpoints: folders that exist once their manifest does, in a chain from claim to claim."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saeserve.jobs import attempts, documents
from saeserve.jobs.errors import RecordUnreadable
from saeserve.jobs.layout import attempt_key, checkpoint_epoch, checkpoint_key, numbered
from saeserve.jobs.record import JOB_FORMAT, Value
from saeserve.platform.store import ArtifactStore

MANIFEST = "manifest.json"


class FileEntry(Value):
    """One file of a checkpoint."""

    sha256: str
    size: int


class CheckpointManifest(Value):
    """What makes a folder a checkpoint: the files it must hold, written after them."""

    format_version: int = JOB_FORMAT
    step: int
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its folder's key and its step."""

    key: str
    step: int


@dataclass(frozen=True)
class ResumePoint:
    """Where the next attempt starts (None: afresh), and the corrupt checkpoints passed over."""

    checkpoint: Checkpoint | None
    corrupt: tuple[str, ...] = ()


def committed(store: ArtifactStore, job: str, epoch: int) -> list[Checkpoint]:
    """Committed checkpoints of one attempt, newest first."""
    steps = numbered(store.names(f"{attempt_key(job, epoch)}/checkpoints"))
    found = (Checkpoint(checkpoint_key(job, epoch, step), step) for step in reversed(steps))
    return [point for point in found if store.exists(f"{point.key}/{MANIFEST}")]


def chain(store: ArtifactStore, job: str) -> Iterator[Checkpoint]:
    """Checkpoints that the highest claim leads to, newest first.

    Its own, then back from the one that each claim resumed from. What a superseded attempt
    committed after it was superseded lies above that step, and so outside.
    """
    epoch = attempts.highest_epoch(store, job)
    limit: int | None = None
    while epoch:
        for point in committed(store, job, epoch):
            if limit is None or point.step <= limit:
                yield point
        claim = attempts.claim_of(store, job, epoch)
        if claim is None or not claim.resume:
            return
        epoch, limit = checkpoint_epoch(claim.resume), claim.resume_step


def resume_point(store: ArtifactStore, job: str) -> ResumePoint:
    """The newest checkpoint of the chain whose bytes are what its manifest says."""
    corrupt: list[str] = []
    for point in chain(store, job):
        if valid(store, point.key):
            return ResumePoint(point, tuple(corrupt))
        corrupt.append(point.key)
    return ResumePoint(None, tuple(corrupt))


def valid(store: ArtifactStore, key: str) -> bool:
    """Whether the checkpoint folder `key` has a manifest, and every file's size and sha256."""
    try:
        manifest = documents.read(store, f"{key}/{MANIFEST}", CheckpointManifest)
    except RecordUnreadable:
        return False
    if manifest is None:
        return False
    folder = store.path(key)
    return all(_same(folder / name, entry) for name, entry in manifest.files.items())


def describe(path: Path) -> FileEntry:
    """Size and sha256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(sha256=digest, size=path.stat().st_size)


def _same(path: Path, entry: FileEntry) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    return describe(path) == entry
