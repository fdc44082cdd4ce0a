"""A READY data set on disk, read lazily from memory-mapped shards."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeserve.core.data.finishing import MANIFEST_FILE
from saeserve.core.data.shards import IndexArray, IntArray, Shard, open_shard
from saeserve.core.data.verified import VerifiedFiles
from saeserve.core.formats.manifest import DatasetManifest, SourceEntry
from saeserve.errors import DataError, DataMismatchError

Split = Literal["train", "heldout"]
SourceNames = str | Sequence[str]
"""One source, or several whose columns stand side by side."""


@dataclass(frozen=True)
class HeldoutRows:
    """B held-out rows: raw float32 [B, d], and int32 [B] where each comes from (-1: unknown).

    Of several sources, their columns stand side by side in the order asked for.
    """

    x_BD: Tensor
    document: IntArray
    sequence: IntArray
    position: IntArray
    token_id: IntArray


class ShardedDataset:
    """The shards of one manifest."""

    def __init__(self, folder: Path, manifest: DatasetManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._heldout = np.array([entry.split == "heldout" for entry in manifest.documents])
        self._widths = {entry.name: entry.d for entry in manifest.sources}
        self._verified = VerifiedFiles(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the manifest in `folder` and look that every file stands with its full size.

        Raises DataError naming what is missing or cut short, FormatError for another format.
        """
        try:
            manifest = DatasetManifest.from_bytes((folder / MANIFEST_FILE).read_bytes())
        except FileNotFoundError:
            raise DataError(
                f"{folder.name} has no manifest, so it is not READY",
                remedy="finish its harvest or ingest job first",
            ) from None
        for entry in manifest.files:
            _check_size(folder, entry.file, entry.size_bytes)
        return cls(folder, manifest)

    def source(self, name: str | None) -> SourceEntry:
        """The source called `name`, or the only one. Raises DataMismatchError."""
        try:
            return self.manifest.source(name)
        except KeyError as error:
            raise DataMismatchError(
                f"there is no source {name!r}: {error.args[0]}", remedy="name one of these"
            ) from None

    def check_file(self, name: str, sha256: str) -> None:
        """Raise DataError unless the bytes of a file have this SHA-256; read through once."""
        self._verified.check(name, sha256)

    @contextmanager
    def shard(self, index: int) -> Generator[Shard]:
        """Open shard `index`, whose bytes are those that the manifest's sha256 was taken of.

        The file is read through the first time, and again when it was replaced since.
        Raises DataError, naming it, where it is not what the manifest says.
        """
        entry = self.manifest.shards[index]
        with self._columns(index) as shard:
            self._verified.check(entry.file, entry.sha256)
            yield shard

    @contextmanager
    def _columns(self, index: int) -> Generator[Shard]:
        """Open a shard to count rows by its columns: only its layout is checked."""
        entry = self.manifest.shards[index]
        with open_shard(self.folder, entry.file) as shard:
            shard.check_layout(self._widths, self.manifest.dtype, entry.rows)
            yield shard

    def kept(self, shard: Shard, source: SourceNames, split: Split, norm_cut: float) -> IndexArray:
        """Indices of a shard's rows in `split` with norm ≤ norm_cut × median (0 cuts none).

        Of several sources a row is kept only if it is kept in every one, so that rows stay pairs.
        Raises DataError where a row names a document that the manifest does not have.
        """
        documents = shard.documents(len(self._heldout))
        keep: NDArray[np.bool_] = self._heldout[documents] == (split == "heldout")
        for name in names_of(source) if norm_cut > 0 else ():
            limit = norm_cut * self.source(name).median_norm
            keep &= shard.norms(name).astype(np.float64) <= limit
        return np.flatnonzero(keep)

    def kept_counts(self, source: SourceNames, split: Split, norm_cut: float) -> tuple[int, ...]:
        """How many rows `kept` finds in every shard; reads documents and norms only, and does not
        verify them: that is done where the rows themselves are read."""
        counts: list[int] = []
        for index in range(len(self.manifest.shards)):
            with self._columns(index) as shard:
                counts.append(len(self.kept(shard, source, split, norm_cut)))
        return tuple(counts)

    def heldout(
        self, source: SourceNames, *, norm_cut: float, max_rows: int, batch: int
    ) -> Iterator[HeldoutRows]:
        """Held-out rows in the order of storage, at most `batch` at a time; `source` may be
        several.

        `max_rows` (0: all) are spread evenly over the shards. `norm_cut` is in medians (0: none).
        Raises DataMismatchError for an unknown source.
        """
        names = tuple(self.source(name).name for name in names_of(source))
        for shard, indices in self.spread(names, "heldout", norm_cut, max_rows):
            for start in range(0, len(indices), batch):
                yield _heldout_rows(shard, names, indices[start : start + batch])

    def training_sample(self, source: SourceNames, *, norm_cut: float, max_rows: int) -> Tensor:
        """At most `max_rows` training rows, spread evenly over the shards, float32 [N, d]."""
        names = tuple(self.source(name).name for name in names_of(source))
        found = self.spread(names, "train", norm_cut, max_rows)
        parts = [take_columns(shard, names, indices).float() for shard, indices in found]
        return (
            torch.cat(parts) if parts else torch.zeros(0, sum(self._widths[name] for name in names))
        )

    def spread(
        self, names: Sequence[str], split: Split, norm_cut: float, max_rows: int
    ) -> Iterator[tuple[Shard, IndexArray]]:
        """Open shards, each with the indices of its share of the rows."""
        counts = self.kept_counts(names, split, norm_cut)
        for index, quota in enumerate(_quotas(counts, max_rows)):
            if quota:
                with self.shard(index) as shard:
                    yield shard, self.kept(shard, names, split, norm_cut)[:quota]


def names_of(source: SourceNames) -> tuple[str, ...]:
    """One name or several, as several."""
    return (source,) if isinstance(source, str) else tuple(source)


def _heldout_rows(shard: Shard, names: Sequence[str], indices: IndexArray) -> HeldoutRows:
    return HeldoutRows(
        x_BD=take_columns(shard, names, indices).float(),
        document=shard.column("document")[indices],
        sequence=shard.column("sequence")[indices],
        position=shard.column("position")[indices],
        token_id=shard.column("token_id")[indices],
    )


def take_columns(shard: Shard, names: Sequence[str], indices: IndexArray) -> Tensor:
    """Rows of the sources `names` side by side, in the stored type."""
    if len(names) == 1:
        return shard.take(names[0], indices)
    return torch.cat([shard.take(name, indices) for name in names], dim=1)


def copy_columns(shard: Shard, names: Sequence[str], indices: IndexArray, into_ND: Tensor) -> None:
    """Copy what `take_columns` takes into memory of the stored type; see `Shard.copy`."""
    start = 0
    for name in names:
        stop = start + shard.width(name)
        shard.copy(name, indices, into_ND[:, start:stop])
        start = stop


def _quotas(counts: Sequence[int], max_rows: int) -> list[int]:
    """How many rows to take from each shard: shares of its count that sum to `max_rows`."""
    total = sum(counts)
    wanted = min(max_rows, total) if max_rows else total
    ends = [0, *(int(end) for end in np.cumsum(counts))]
    shares = [end * wanted // max(total, 1) for end in ends]
    return [after - before for before, after in pairwise(shares)]


def _check_size(folder: Path, name: str, size: int) -> None:
    path = folder / name
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        what = "is missing" if found is None else f"has {found} bytes, not the manifest's {size}"
        raise DataError(what, shard=name, remedy="restore the file, or write the data set again")
