"""Where models, and what evaluations keep, lie in the store."""

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


EVALUATIONS = "evaluations"
"""Folder of what evaluations keep for later ones, by the name of the data set."""


def evaluation_key(dataset: str, digest: str) -> str:
    """Store key of something found in an evaluation on a data set."""
    return f"{EVALUATIONS}/{dataset}/{digest}.json"


def claimed_numbers(store: ArtifactStore, name: str) -> list[int]:
    """Every number ever used for `name`, deleted versions included, ascending."""
    names = store.names(f"models/{name}/versions")
    return sorted(int(entry) for entry in names if entry.isdigit())
