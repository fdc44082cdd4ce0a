from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saeserve.core.specs.manifest import DatasetManifest, DocumentEntry, ShardEntry, SourceEntry
from saeserve.core.specs.model import ModelConfig, TensorSource, TopKActivation
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
        folder = tmp_path / f"export-{tensors}"
        folder.mkdir(exist_ok=True)
        config = ModelConfig(
            architecture="topk",
            d_in=4,
            d_out=4,
            d_sae=8,
            inputs=(TensorSource(name="x", offset=0, d=4),),
            outputs=(TensorSource(name="x", offset=0, d=4),),
            activation=TopKActivation(k=2),
        )
        (folder / "config.json").write_text(json.dumps(config.to_json()))
        (folder / "model.safetensors").write_text(tensors)
        return folder

    return write


@pytest.fixture
def manifest() -> DatasetManifest:
    return DatasetManifest(
        name="acts",
        sources=(SourceEntry(name="x", d=4, median_norm=2.0, massive_rows=0),),
        shards=(ShardEntry(file="shards/00000.safetensors", rows=3, size_bytes=48, sha256="0"),),
        documents=(DocumentEntry(origin="a", sha256="0", split="train", rows=3),),
        dtype="float32",
        rows=3,
        heldout_rows=0,
    )
