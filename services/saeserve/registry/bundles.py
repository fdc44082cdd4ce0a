"""Feature bundles of model versions, where they lie in the store; `core.features` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from saeserve.platform.store import ArtifactStore

BUNDLES = "features"
"""Folder of all bundles, by model, version and collect job."""
_KEY = re.compile(rf"{BUNDLES}/([^/]+)/([1-9][0-9]*)/[^/]+")


def bundle_key(name: str, version: int, job: str = "") -> str:
    """Store key of the bundle that a job made, or of the folder of a version's bundles."""
    folder = f"{BUNDLES}/{name}/{version}"
    return f"{folder}/{job}" if job else folder


def version_of(key: str) -> tuple[str, int] | None:
    """Name and version of the model whose bundle `key` is; None for a key of something else."""
    found = _KEY.fullmatch(key)
    return (found[1], int(found[2])) if found else None


class Bundles:
    """The bundles of a store. A bundle appears whole, with the result of its job, and is never
    changed."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def jobs(self, name: str, version: int) -> list[str]:
        """Jobs that made the bundles of a version, newest first: ids ascend with time."""
        return self._store.names(bundle_key(name, version))[::-1]

    def folder(self, name: str, version: int, job: str) -> Path:
        """Where the files of a bundle are."""
        return self._store.path(bundle_key(name, version, job))

    def versions(self) -> Iterator[tuple[str, int]]:
        """Name and version of every model that has bundles."""
        for name in self._store.names(BUNDLES):
            for version in self._store.names(f"{BUNDLES}/{name}"):
                if version.isascii() and version.isdigit():
                    yield name, int(version)

    def remove(self, name: str, version: int) -> None:
        """Remove all bundles of a version; who has one open reads on."""
        self._store.remove(bundle_key(name, version))
