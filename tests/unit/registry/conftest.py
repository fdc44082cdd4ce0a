from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.registry import manifest_of, write_export

from saeserve.core.formats.manifest import DatasetManifest
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.models import ModelRegistry
from saeserve.registry.roots import Roots


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path / "store")
    store.check()
    return store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def datasets(store: ArtifactStore, root: Path) -> DatasetRegistry:
    return DatasetRegistry(store, Roots({"acts": root}), clock=lambda: 1000.0)


@pytest.fixture
def models(store: ArtifactStore) -> ModelRegistry:
    return ModelRegistry(store, clock=lambda: 1000.0)


@pytest.fixture
def export(tmp_path: Path) -> Callable[[str], Path]:
    """Writes an exported model whose tensors hold the given text."""

    def write(tensors: str = "tensors") -> Path:
        return write_export(tmp_path / f"export-{tensors}", tensors)

    return write


@pytest.fixture
def manifest() -> DatasetManifest:
    return manifest_of(rows=3, heldout_rows=0)
