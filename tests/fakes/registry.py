"""Manifests and exported models small enough to write by hand, and no torch."""

from __future__ import annotations

import json
from pathlib import Path

from saeserve.core.formats.manifest import (
    DatasetManifest,
    DocumentEntry,
    ShardEntry,
    SourceEntry,
    TokenizationEntry,
)
from saeserve.core.formats.model import Lineage, ModelConfig, TensorSource, TopKActivation
from saeserve.core.specs.jobs import LanguageModelSpec


def manifest_of(
    name: str = "acts",
    sources: tuple[str, ...] = ("x",),
    rows: int = 1000,
    heldout_rows: int = 100,
    d: int = 4,
    language_model: str = "",
) -> DatasetManifest:
    entries = [SourceEntry(name=each, d=d, median_norm=2.0, massive_rows=0) for each in sources]
    return DatasetManifest(
        name=name,
        sources=tuple(entries),
        shards=(ShardEntry(file="shards/0.safetensors", rows=rows, size_bytes=48, sha256="0"),),
        documents=(DocumentEntry(origin="a", sha256="0", split="train", rows=rows),),
        dtype="float32",
        rows=rows,
        heldout_rows=heldout_rows,
        language_model=LanguageModelSpec(path=language_model) if language_model else None,
        tokenization=TokenizationEntry(context_length=8, bos="none") if language_model else None,
    )


def write_export(
    folder: Path,
    tensors: str = "tensors",
    source: str = "x",
    d: int = 4,
    sources: tuple[str, ...] = (),
) -> Path:
    """An exported model whose tensors hold the given text; of several sources if named."""
    folder.mkdir(exist_ok=True)
    names = sources or (source,)
    side = tuple(TensorSource(name=name, offset=i * d, d=d) for i, name in enumerate(names))
    config = ModelConfig(
        architecture="topk",
        d_in=d * len(names),
        d_out=d * len(names),
        d_sae=8,
        inputs=side,
        outputs=side,
        activation=TopKActivation(k=2),
        lineage=Lineage(source=source, dataset="acts", job="j-made", metrics={"fvu": 0.25}),
    )
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    (folder / "model.safetensors").write_text(tensors)
    return folder
