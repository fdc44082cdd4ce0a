"""Where models lie in the store."""

from __future__ import annotations

from saeserve.platform.store import ArtifactStore
from saeserve.registry.references import resource_of


def version_key(name: str, version: int, file: str = "") -> str:
    """Store key of a version's folder, or of a file in it."""
    resource = resource_of(name, version)
    return f"{resource}/{file}" if file else resource


def alias_folder(name: str) -> str:
    """Store key of the folder that holds a model's aliases."""
    return f"models/{name}/aliases"


def claimed_numbers(store: ArtifactStore, name: str) -> list[int]:
    """Every number ever used for `name`, deleted versions included, ascending."""
    names = store.names(f"models/{name}/versions")
    return sorted(int(entry) for entry in names if entry.isdigit())
