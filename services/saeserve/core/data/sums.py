"""Sums over a data set's training rows, taken once when it is made, so that a job that centres and
scales them starts without going through them twice (`preprocess`).

Of each source by itself, over the training rows whose norm is at most MASSIVE_NORM medians, in the
order of the files, in float64: how many there are, their sum, the sum of their norms, and that of
their distances from the mean. The mean is rounded to float32 first, as preprocessing keeps it. The
last sum depends on the mean in no linear way, so sums of squares by shard would not give it: rows
are gone through twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.disk import create
from saeserve.core.data.shards import SHARD_FOLDER, open_shard
from saeserve.core.data.tensor_file import open_tensors
from saeserve.core.formats.manifest import MASSIVE_NORM, DatasetManifest, SumsEntry
from saeserve.core.moving import moved
from saeserve.errors import DataError

SUMS_FILE = f"{SHARD_FOLDER}/sums.safetensors"
"""Among the shards: a later attempt removes it there, and publication takes it along."""
_CHUNK_VALUES = 2**21
"""Values that are widened at a time; part of how sums are rounded."""

_Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class SourceSums:
    """Sums of one source: `total_D` is float64 [d]."""

    rows: int
    total_D: Tensor
    norms: float
    distances: float

    def mean(self) -> Tensor:
        """The rows' mean, float32 [d]."""
        return (self.total_D / self.rows).float()


def with_sums(
    folder: Path, manifest: DatasetManifest, stop: Callable[[], bool]
) -> DatasetManifest | None:
    """Write the sums of the shards of a `finish_manifest`; the manifest that names them, or None
    once `stop()` is true.

    Raises NoSpaceError when the disk is full.
    """
    dataset, tensors = ShardedDataset(folder, manifest), dict[str, NDArray[np.generic]]()
    for source in manifest.sources:
        found = _measure(dataset, source.name, stop)
        if found is None:
            return None
        rows, total_D, norms, distances = found
        tensors[f"rows.{source.name}"] = np.array([rows], np.int64)
        tensors[f"total.{source.name}"] = total_D
        tensors[f"lengths.{source.name}"] = np.array([norms, distances])
    data = safetensors.numpy.save(tensors)
    create(folder / SUMS_FILE, data)
    digest = hashlib.sha256(data).hexdigest()
    entry = SumsEntry(file=SUMS_FILE, size_bytes=len(data), sha256=digest)
    return manifest.model_copy(update={"sums": entry})


def read_sums(dataset: ShardedDataset, source: str) -> SourceSums | None:
    """The sums of one source; None where the data set has none. Raises DataError for a file that
    is not what the manifest says."""
    entry = dataset.manifest.sums
    if entry is None:
        return None
    dataset.check_file(entry.file, entry.sha256)
    with open_tensors(dataset.folder / entry.file, entry.file) as file:
        missing = {f"{kind}.{source}" for kind in ("rows", "total", "lengths")} - set(file.keys())
        if missing:
            raise DataError(
                f"lacks {', '.join(sorted(missing))}",
                shard=entry.file,
                remedy="restore the file, or write the data set again",
            )
        lengths = file.get_tensor(f"lengths.{source}")
        return SourceSums(
            rows=int(file.get_tensor(f"rows.{source}")),
            total_D=file.get_tensor(f"total.{source}").clone(),
            norms=float(lengths[0]),
            distances=float(lengths[1]),
        )


def _measure(
    dataset: ShardedDataset, source: str, stop: Callable[[], bool]
) -> tuple[int, _Doubles, float, float] | None:
    """Rows, their sum, and the sums of norms and of distances from the mean; None when stopped."""
    rows, norms, distances = 0, 0.0, 0.0
    total_D = np.zeros(dataset.source(source).d)
    for x_ND in _kept(dataset, source):
        if stop():
            return None
        rows += len(x_ND)
        total_D += x_ND.sum(axis=0)
        norms += _lengths(x_ND)
    # Rounded as preprocessing rounds it.
    mean_D = (total_D / max(rows, 1)).astype(np.float32).astype(np.float64)
    for x_ND in _kept(dataset, source):
        if stop():
            return None
        distances += _lengths(x_ND - mean_D)
    return rows, total_D, norms, distances


def _kept(dataset: ShardedDataset, source: str) -> Iterator[_Doubles]:
    """The kept rows in float64, by numpy: how it sums does not depend on the number of threads."""
    size = max(1, _CHUNK_VALUES // dataset.source(source).d)
    for entry in dataset.manifest.shards:
        with open_shard(dataset.folder, entry.file) as shard:
            kept = dataset.kept(shard, source, "train", MASSIVE_NORM)
            for start in range(0, len(kept), size):
                x_ND = shard.take(source, kept[start : start + size])
                yield x_ND.to(torch.float64).numpy()
                moved()


def _lengths(x_ND: _Doubles) -> float:
    return float(np.sqrt(np.square(x_ND).sum(axis=1)).sum())
