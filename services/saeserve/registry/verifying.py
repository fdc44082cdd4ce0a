"""Published files are compared with their SHA-256 before anything is computed from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from saeserve.core.moving import moved
from saeserve.registry.stored import damaged
from saeserve.registry.version import MANIFEST, read_manifest

_KEY_PARTS = 4
_BLOCK = 1 << 20


def verified(folder: Path) -> Path:
    """`folder` of a published version once every file in it has the size and SHA-256 of its
    manifest. Raises DamagedError naming the file that has not."""
    key = "/".join(folder.parts[-_KEY_PARTS:])
    try:
        manifest = read_manifest((folder / MANIFEST).read_bytes(), f"{key}/{MANIFEST}")
        for name, stored in manifest.files.items():
            found = _sha256(folder / name)
            if found != stored.sha256:
                raise damaged(f"{key}/{name}", f"its sha256 is {found}, not {stored.sha256}")
    except OSError as error:
        raise damaged(key, f"its files cannot be read ({error.strerror})") from error
    return folder


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            moved()
    return digest.hexdigest()
