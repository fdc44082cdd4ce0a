"""Names, folders and files that survive a loss of power, and temporaries that do not stay.

Everything that is written below the store is first written under a temporary name. Whoever writes
holds a lock on it, so that leftovers of a killed process differ from what is being written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Generator
from pathlib import Path

from saeserve.core.moving import moved

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
"""What file systems without locks answer; EBADF is NFS's for a lock on a folder."""


def temporary_name(name: str) -> str:
    """A name that no reader takes for a stored file or folder."""
    return f".{name}.{uuid.uuid4().hex}.tmp"


def temporary_beside(path: Path) -> Path:
    """A temporary path in the folder of `path`."""
    return path.with_name(temporary_name(path.name))


def is_temporary(name: str) -> bool:
    """Whether `name` is one of `temporary_name`'s."""
    return name.startswith(".") and name.endswith(".tmp")


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    moved()


def make_folders(path: Path) -> None:
    """Make the folder `path` and those above it that are missing, each with a durable name.

    Their modes follow the process's umask.
    """
    missing: list[Path] = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        # A folder of somebody else's may be entered but not read; its names are not ours to sync.
        with contextlib.suppress(PermissionError):
            sync(folder.parent)


@contextlib.contextmanager
def held(temporary: Path) -> Generator[None]:
    """Mark a temporary file or folder, which exists, as in use while the block runs.

    The kernel takes the mark away when the process ends, however it does. Where the file system
    has no locks, nothing marks it, and only the age of temporaries protects them.
    """
    handle = os.open(temporary, os.O_RDONLY)
    try:
        _lock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(handle: int) -> Generator[None]:
    """Hold the open file for this process alone while the block runs; waits for others. Where the
    file system has no locks, nothing does."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)


def in_use(temporary: Path) -> bool:
    """Whether a living process holds the temporary file or folder."""
    try:
        handle = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link is nobody's work
            return False
        raise
    try:
        return not _lock(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def _lock(handle: int, kind: int) -> bool:
    """Take a lock without waiting; False when another process has it."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
