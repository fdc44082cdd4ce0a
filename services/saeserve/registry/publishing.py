"""Publishing: an exported folder becomes the next version, once for each output of a job."""

from __future__ import annotations

from pathlib import Path

from saeserve.errors import FormatError
from saeserve.platform.store import ArtifactStore
from saeserve.registry.folders import commit_folder, copy_synced, staged_folder, write_synced
from saeserve.registry.layout import claimed_numbers, version_key
from saeserve.registry.stored import read_stored
from saeserve.registry.version import (
    CARD,
    CLAIM,
    CONFIG,
    MANIFEST,
    TENSORS,
    Claim,
    VersionManifest,
    read_config,
)


def publish_version(store: ArtifactStore, name: str, claim: Claim, folder: Path, now: float) -> int:
    """Copy `folder` in as a new version unless `claim` has one already; its number.

    The version appears by one rename with everything in it, so two writers never mix. Raises
    FormatError for a folder that is not an exported model, Unavailable when the disk is full.
    """
    numbers = claimed_numbers(store, name)
    for number in numbers:
        if _claim_of(store, name, number) == claim:
            return number
    _check_exported(folder)
    return _commit(store, name, max(numbers, default=0) + 1, claim, folder, now)


def _commit(
    store: ArtifactStore, name: str, number: int, claim: Claim, folder: Path, now: float
) -> int:
    """Take the first free number from `number` on, unless this claim turns up on the way."""
    with staged_folder(store.path(version_key(name, number))) as staged:
        present = [name for name in (CONFIG, TENSORS, CARD) if (folder / name).exists()]
        files = {name: copy_synced(folder / name, staged / name) for name in present}
        write_synced(staged / CLAIM, claim.model_dump_json().encode())
        write_synced(staged / MANIFEST, VersionManifest.of(claim, now, files).to_bytes())
        while not commit_folder(staged, store.path(version_key(name, number))):
            if _claim_of(store, name, number) == claim:
                return number
            number += 1
    return number


def _claim_of(store: ArtifactStore, name: str, number: int) -> Claim | None:
    return read_stored(store, version_key(name, number, CLAIM), Claim)


def _check_exported(folder: Path) -> None:
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise FormatError(
                f"{folder.name} is not an exported model: it has no {name}",
                remedy="export it again",
            )
    read_config((folder / CONFIG).read_bytes(), f"{folder.name}/{CONFIG}")
