"""Durable files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

from saeserve.core.disk import space_needed

_READ_BYTES = 2**20


def create(path: Path, data: bytes) -> bool:
    """Write `data` durably as `path` unless it exists; True when this call created it.

    Raises NoSpaceError when the disk is full; nothing half-written stays behind.
    """
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with space_needed(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(staged, data)
            os.link(staged, path)
            _sync_folder(path.parent)
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
    return digest.hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
