"""What writing exports shares: durability, and the error of a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from safetensors import SafetensorError

from saeserve.core.errors import NoSpaceError


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: OSError | SafetensorError) -> bool:
    """safetensors keeps the system's error number in its text alone."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"os error {errno.ENOSPC}" in str(error)


def no_space(folder: Path) -> NoSpaceError:
    """The error for a full disk."""
    return NoSpaceError(
        f"the disk that holds {folder.name} is full",
        remedy="free space or move the store, then submit again",
    )
