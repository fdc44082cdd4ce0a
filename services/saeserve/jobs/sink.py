"""Committing checkpoints from inside an attempt: durable, fenced, the last two kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from saeserve.core.durable import make_folders, sync
from saeserve.jobs import checkpoints, documents, fence
from saeserve.jobs.checkpoints import MANIFEST, CheckpointManifest
from saeserve.jobs.layout import attempt_key, checkpoint_key, numbered
from saeserve.jobs.record import Lease
from saeserve.platform.store import ArtifactStore, writing

KEEP = 2
"""The newest and the one before it: should the newest turn out damaged, one is left."""


class StoreCheckpointSink:
    """The `CheckpointSink` of one attempt. Used by the job process, so it needs no index."""

    def __init__(self, store: ArtifactStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease

    def commit(self, step: int, write: Callable[[Path], None]) -> int:
        """Let `write(folder)` fill an empty folder, then commit it; its size in bytes.

        Committing a step again returns the size of what stands. Raises Fenced when the store
        shows a later claim or a result, Unavailable (DISK_FULL) when there is no room; then nothing
        of the checkpoint stays and the older ones are untouched.
        """
        key = checkpoint_key(self._lease.job, self._lease.epoch, step)
        standing = documents.read(self._store, f"{key}/{MANIFEST}", CheckpointManifest)
        if standing is not None:
            return _size(standing)
        self.check_fence()
        try:
            manifest = self._write(key, step, write)
            self.check_fence()
            documents.commit(self._store, f"{key}/{MANIFEST}", manifest)
        except BaseException:
            self._store.remove(key)
            raise
        self._prune()
        return _size(manifest)

    def check_fence(self) -> None:
        """Raise Fenced when the store shows a later claim or a result."""
        fence.check_fence(self._store, self._lease.job, self._lease.epoch)

    def _write(self, key: str, step: int, write: Callable[[Path], None]) -> CheckpointManifest:
        self._store.remove(key)
        folder = self._store.path(key)
        with writing():
            make_folders(folder)
            write(folder)
            return _seal(folder, step)

    def _prune(self) -> None:
        # A later claim may resume from any of these two; were we superseded just now, it is
        # the newest or, that one being the checkpoint just committed, the one before it.
        self.check_fence()
        doomed = [old.key for old in checkpoints.chain(self._store, self._lease.job)][KEEP:]
        for key in [*doomed, *self._unfinished()]:
            self._store.remove(key)

    def _unfinished(self) -> Iterator[str]:
        """Folders that earlier attempts had begun when they were killed."""
        job = self._lease.job
        for epoch in range(1, self._lease.epoch):
            for step in numbered(self._store.names(f"{attempt_key(job, epoch)}/checkpoints")):
                key = checkpoint_key(job, epoch, step)
                if not self._store.exists(f"{key}/{MANIFEST}"):
                    yield key


def _seal(folder: Path, step: int) -> CheckpointManifest:
    """Make every file below `folder` durable, and say what they are."""
    paths = sorted(path for path in folder.rglob("*"))
    for path in [*paths, folder]:
        sync(path)
    files = {
        path.relative_to(folder).as_posix(): checkpoints.describe(path)
        for path in paths
        if path.is_file()
    }
    return CheckpointManifest(step=step, files=files)


def _size(manifest: CheckpointManifest) -> int:
    return sum(entry.size for entry in manifest.files.values())
