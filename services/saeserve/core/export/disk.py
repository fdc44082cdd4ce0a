"""The error of a full disk, as exports tell it."""

from __future__ import annotations

import errno
from pathlib import Path

from safetensors import SafetensorError

from saeserve.errors import NoSpaceError


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
