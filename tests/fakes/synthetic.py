"""A small data set of sparse sums of planted unit directions, written as a job would write it.

The benchmarks have a generator of their own (`bench/planted`), so that tests of the product
need nothing of `bench`.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from saeserve.core.data.finishing import DocumentOrigin, SourceOrigin, finish_manifest
from saeserve.core.data.writer import DatasetWriter, RowBlock
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import StorageType

BLOCK_ROWS = 1024
DOCUMENT_ROWS = 64
MASSIVE_FACTOR = 100.0
_DIRECTIONS, _MEAN, _ROWS = range(3)


def write_synthetic(
    folder: Path,
    *,
    name: str,
    d: int,
    n_features: int,
    active: int,
    rows: int,
    seed: int,
    source: str = "activations",
    dtype: StorageType = "float32",
    offset: float = 0.0,
    massive_rows: int = 0,
    shard_rows: int = 4096,
) -> DatasetManifest:
    """Write `rows` rows as shards below `folder` and describe them; the caller commits.

    A row is a mean of length `offset` plus `active` of `n_features` directions, with magnitudes
    from [0.5, 1.5). `massive_rows` rows, evenly spread, are MASSIVE_FACTOR times longer.
    """
    directions_FD = _directions(d, n_features, seed)
    mean_D = offset * _unit(_generator(seed, _MEAN).standard_normal(d)[None])[0]
    massive = np.array([i * rows // massive_rows for i in range(massive_rows)], dtype=np.int64)
    writer = DatasetWriter(folder, {source: d}, dtype, shard_rows)
    for index in range(math.ceil(rows / BLOCK_ROWS)):
        first = index * BLOCK_ROWS
        f_BF = _coefficients(_generator(seed, _ROWS, index), n_features, active)
        x_BD = (f_BF @ directions_FD + mean_D.astype(np.float32))[: rows - first]
        x_BD[massive[(massive >= first) & (massive < first + len(x_BD))] - first] *= MASSIVE_FACTOR
        writer.add(_row_block(source, x_BD, first))
    writer.close()
    return finish_manifest(
        folder,
        name=name,
        sources=[SourceOrigin(source, d)],
        dtype=dtype,
        shards=writer.shards,
        documents=_documents(name, seed, math.ceil(rows / DOCUMENT_ROWS)),
        heldout_fraction=0.1,
    )


def _row_block(source: str, x_BD: NDArray[np.float32], first: int) -> RowBlock:
    rows = np.arange(first, first + len(x_BD), dtype=np.int64)
    document = (rows // DOCUMENT_ROWS).astype(np.int32)
    position = (rows % DOCUMENT_ROWS).astype(np.int32)
    unknown = np.full(len(rows), -1, dtype=np.int32)
    return RowBlock({source: torch.as_tensor(x_BD)}, document, document, position, unknown)


def _documents(name: str, seed: int, count: int) -> list[DocumentOrigin]:
    origins = [f"{name}/{seed}/{index}" for index in range(count)]
    return [DocumentOrigin(o, hashlib.sha256(o.encode()).hexdigest()) for o in origins]


def _directions(d: int, n_features: int, seed: int) -> NDArray[np.float32]:
    drawn_FD = _generator(seed, _DIRECTIONS).standard_normal((n_features, d))
    return _unit(drawn_FD).astype(np.float32)


def _unit(rows_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


def _coefficients(rng: np.random.Generator, n_features: int, active: int) -> NDArray[np.float32]:
    """Magnitudes of one block of rows, [BLOCK_ROWS, n_features]; `active` a row are not zero."""
    keys: NDArray[np.float32] = rng.random((BLOCK_ROWS, n_features), dtype=np.float32)
    chosen = np.argpartition(keys, active - 1, axis=1)[:, :active]
    coefficients = np.zeros((BLOCK_ROWS, n_features), dtype=np.float32)
    magnitudes = rng.uniform(0.5, 1.5, chosen.shape).astype(np.float32)
    np.put_along_axis(coefficients, chosen, magnitudes, axis=1)
    return coefficients


def _generator(seed: int, purpose: int, index: int = 0) -> np.random.Generator:
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([0, 0, 0, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
