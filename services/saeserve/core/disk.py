"""A full disk, recognised in the errors of every library that may meet it."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from saeserve.errors import NoSpaceError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def space_needed(folder: Path) -> Generator[None]:
    """Raise NoSpaceError, naming the folder, where a write finds no room."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        raise no_space(str(folder)) from error


def no_space(folder: str) -> NoSpaceError:
    """The error for a full disk."""
    return NoSpaceError(
        f"the disk that holds {folder} is full",
        remedy="free space or move the store, then submit again",
    )


def is_disk_full(error: OSError | SafetensorError) -> bool:
    """safetensors keeps the system's error number in its text alone."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"os error {number})" in str(error) for number in _FULL)
