"""Data with a known dictionary: rows that are sparse sums of planted unit directions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeserve.core.data.finishing import DocumentOrigin, SourceOrigin, finish_manifest
from saeserve.core.data.shards import IndexArray
from saeserve.core.data.writer import DatasetWriter, RowBlock
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import StorageType
from saeserve.errors import SpecError

BLOCK_ROWS = 1024
_DIRECTIONS, _MEAN, _ROWS = range(3)
MASSIVE_FACTOR = 100.0
"""Rows that are made massive are this many times longer, as in real residual streams."""


@dataclass(frozen=True)
class PlantedFeatures:
    """Row = mean + Σ magnitude · direction over `active` of `n_features` features + noise.

    Features are drawn uniformly, magnitudes from [0.5, 1.5); `offset` is the length of the mean;
    `noise` the expected length of the Gaussian noise. Everything follows from `seed`.
    """

    d: int
    n_features: int
    active: int
    seed: int
    offset: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Raise SpecError where a row cannot be drawn."""
        if not 1 <= self.active <= self.n_features:
            raise SpecError(
                "active",
                f"{self.active} of {self.n_features} features",
                remedy="choose 1 to n_features",
            )

    def directions(self) -> Tensor:
        """The planted dictionary, float32 [n_features, d] with unit rows."""
        return planted_directions(d=self.d, n_features=self.n_features, seed=self.seed)

    def mean(self) -> Tensor:
        """The offset of every row, float32 [d]."""
        drawn_D = _generator(self.seed, _MEAN).standard_normal(self.d)
        return torch.as_tensor(self.offset * drawn_D / np.linalg.norm(drawn_D)).float()

    def block(self, index: int) -> tuple[Tensor, Tensor]:
        """Rows BLOCK_ROWS·index and on: (x [BLOCK_ROWS, d], coefficients [., n_features]).

        Both float32; a pure function of the index.
        """
        rng = _generator(self.seed, _ROWS, index)
        chosen = _choose(rng, self.n_features, self.active)
        coefficients = np.zeros((BLOCK_ROWS, self.n_features), dtype=np.float32)
        magnitudes = rng.uniform(0.5, 1.5, chosen.shape).astype(np.float32)
        np.put_along_axis(coefficients, chosen, magnitudes, axis=1)
        noise = rng.standard_normal((BLOCK_ROWS, self.d)) * (self.noise / math.sqrt(self.d))
        f_BF = torch.as_tensor(coefficients)
        x_BD = f_BF @ self.directions() + self.mean() + torch.as_tensor(noise).float()
        return x_BD, f_BF


def planted_directions(*, d: int, n_features: int, seed: int) -> Tensor:
    """Unit directions drawn uniformly from the sphere, float32 [n_features, d]."""
    drawn_FD = _generator(seed, _DIRECTIONS).standard_normal((n_features, d))
    unit_FD = drawn_FD / np.linalg.norm(drawn_FD, axis=1, keepdims=True)
    return torch.as_tensor(unit_FD).float()


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
    noise: float = 0.0,
    massive_rows: int = 0,
    document_rows: int = 64,
    shard_rows: int = 4096,
    heldout_fraction: float = 0.1,
) -> DatasetManifest:
    """Write planted rows as shards below `folder` and describe them; the caller commits.

    `massive_rows` rows, evenly spread, are MASSIVE_FACTOR times longer. A document is
    `document_rows` rows, its sequence the same, its positions counted from 0.
    """
    planted = PlantedFeatures(d, n_features, active, seed, offset, noise)
    massive = np.array([i * rows // massive_rows for i in range(massive_rows)], dtype=np.int64)
    writer = DatasetWriter(folder, {source: d}, dtype, shard_rows)
    for first, x_BD in _blocks(planted, rows, writer.rows_done):
        inside = massive[(massive >= first) & (massive < first + len(x_BD))] - first
        x_BD[torch.as_tensor(inside)] *= MASSIVE_FACTOR
        writer.add(_row_block(source, x_BD, first, document_rows))
    writer.close()
    return finish_manifest(
        folder,
        name=name,
        sources=[SourceOrigin(source, d)],
        dtype=dtype,
        shards=writer.shards,
        documents=_documents(name, seed, math.ceil(rows / document_rows)),
        heldout_fraction=heldout_fraction,
    )


def _blocks(planted: PlantedFeatures, rows: int, start: int) -> Iterator[tuple[int, Tensor]]:
    """(number of the first row, rows), from row `start` to row `rows`."""
    for index in range(start // BLOCK_ROWS, math.ceil(rows / BLOCK_ROWS)):
        first = index * BLOCK_ROWS
        skip = max(start - first, 0)
        yield first + skip, planted.block(index)[0][skip : rows - first]


def _row_block(source: str, x_BD: Tensor, first: int, document_rows: int) -> RowBlock:
    rows = np.arange(first, first + len(x_BD), dtype=np.int64)
    document = (rows // document_rows).astype(np.int32)
    position = (rows % document_rows).astype(np.int32)
    unknown = np.full(len(rows), -1, dtype=np.int32)
    return RowBlock({source: x_BD}, document, document, position, unknown)


def _documents(name: str, seed: int, count: int) -> list[DocumentOrigin]:
    origins = [f"{name}/{seed}/{index}" for index in range(count)]
    return [DocumentOrigin(o, hashlib.sha256(o.encode()).hexdigest()) for o in origins]


def _choose(rng: np.random.Generator, n_features: int, active: int) -> IndexArray:
    """`active` distinct features for every row of a block, [BLOCK_ROWS, active]."""
    keys: NDArray[np.float32] = rng.random((BLOCK_ROWS, n_features), dtype=np.float32)
    return np.argpartition(keys, active - 1, axis=1)[:, :active]


def _generator(seed: int, purpose: int, index: int = 0) -> np.random.Generator:
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([0, 0, 0, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
