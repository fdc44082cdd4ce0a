"""Durable files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from saeserve.core.disk import space_needed
from saeserve.core.durable import held, make_folders, sync, temporary_beside
from saeserve.core.moving import moved

_READ_BYTES = 2**20


def create(path: Path, data: bytes) -> bool:
    """Write `data` durably as `path` unless it exists; True when this call created it.

    Raises NoSpaceError when the disk is full; nothing half-written stays behind.
    """
    staged = temporary_beside(path)
    try:
        with space_needed(path.parent):
            make_folders(path.parent)
            staged.touch(exist_ok=False)
            with held(staged):
                _write_synced(staged, data)
                os.link(staged, path)
                sync(path.parent)
    except FileExistsError:
        return False
    finally:
        staged.unlink(missing_ok=True)
    return True


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
            moved()
    return digest.hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
