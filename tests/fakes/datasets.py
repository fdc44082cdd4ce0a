"""Small data sets on disk whose every row is known."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeserve.core.data.finishing import (
    DocumentOrigin,
    SourceOrigin,
    finish_manifest,
    write_manifest,
)
from saeserve.core.data.writer import DatasetWriter, RowBlock
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import StorageType

SOURCE = "resid_post.3"


def numbered_rows(rows: int, d: int = 4) -> Tensor:
    """Rows whose first value is their number; norms differ by little, so none is massive."""
    x_ND = torch.full((rows, d), 1000.0)
    x_ND[:, 0] = torch.arange(rows)
    return x_ND


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> Path:
    """A .safetensors file."""
    path.write_bytes(safetensors.torch.save(tensors))
    return path


def norms(x_ND: Tensor) -> Tensor:
    """Row norms, float64 [N]."""
    return x_ND.double().square().sum(1).sqrt()


def row_block(x_ND: Tensor, first: int = 0, document_rows: int = 5) -> RowBlock:
    """A block that begins at row `first` of the data set."""
    rows = np.arange(first, first + len(x_ND), dtype=np.int32)
    return RowBlock(
        {SOURCE: x_ND},
        document=rows // document_rows,
        sequence=rows // document_rows,
        position=rows % document_rows,
        token_id=rows + 7,
    )


def documents(count: int) -> list[DocumentOrigin]:
    """Documents with hashes of their own."""
    names = [f"text.jsonl:{index}" for index in range(count)]
    return [DocumentOrigin(n, hashlib.sha256(n.encode()).hexdigest()) for n in names]


def write_dataset(
    folder: Path,
    x_ND: Tensor,
    *,
    shard_rows: int = 16,
    document_rows: int = 5,
    heldout_fraction: float = 0.2,
    dtype: StorageType = "float32",
) -> DatasetManifest:
    """Write `x_ND` and its manifest."""
    writer = DatasetWriter(folder, {SOURCE: x_ND.shape[1]}, dtype, shard_rows)
    writer.add(row_block(x_ND, document_rows=document_rows))
    writer.close()
    manifest = finish_manifest(
        folder,
        name="numbers",
        sources=[SourceOrigin(SOURCE, x_ND.shape[1], "resid_post", 3)],
        dtype=dtype,
        shards=writer.shards,
        documents=documents(-(-len(x_ND) // document_rows)),
        heldout_fraction=heldout_fraction,
    )
    write_manifest(folder, manifest)
    return manifest


def heldout_mask(manifest: DatasetManifest, rows: int, document_rows: int = 5) -> NDArray[np.bool_]:
    """Which rows of `write_dataset` are held out."""
    splits = [entry.split == "heldout" for entry in manifest.documents]
    return np.array([splits[row // document_rows] for row in range(rows)])
