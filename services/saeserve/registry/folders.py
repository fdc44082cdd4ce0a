"""Folders committed as one: staged next to their place, synced, then renamed into it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from saeserve.core.durable import held, make_folders, sync, temporary_beside
from saeserve.core.moving import moved
from saeserve.platform.store import writing

_BLOCK = 1 << 20


@dataclass(frozen=True)
class FileDigest:
    """Size in bytes and lower-case hex sha256 of a file."""

    size: int
    sha256: str


@contextlib.contextmanager
def staged_folder(target: Path) -> Generator[Path]:
    """An empty folder next to `target` that is gone afterwards unless it was committed."""
    staged = temporary_beside(target)
    try:
        with writing():
            make_folders(target.parent)
            staged.mkdir()
            with held(staged):
                yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def commit_folder(staged: Path, target: Path) -> bool:
    """Rename `staged` to `target`; False, and no change, when `target` is taken."""
    sync(staged)
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    sync(target.parent)
    return True


def copy_synced(source: Path, target: Path) -> FileDigest:
    """Copy a file durably and return what was written."""
    digest, size = hashlib.sha256(), 0
    with open(source, "rb") as reader, open(target, "xb") as writer:
        while block := reader.read(_BLOCK):
            writer.write(block)
            digest.update(block)
            size += len(block)
            moved()
        writer.flush()
        os.fsync(writer.fileno())
    return FileDigest(size, digest.hexdigest())


def write_synced(target: Path, data: bytes) -> None:
    """Write a new file durably."""
    with open(target, "xb") as writer:
        writer.write(data)
        writer.flush()
        os.fsync(writer.fileno())
