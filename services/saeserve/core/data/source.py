"""What the trainer reads rows from; shards on disk are one kind, a running harvest another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from saeserve.core.data.dataset import ShardedDataset, SourceNames, names_of, take_columns
from saeserve.core.data.order import RowOrder, spread_sample
from saeserve.core.data.shards import IndexArray
from saeserve.core.data.tensor_file import STORAGE
from saeserve.core.errors import DataError


class ActivationSource(Protocol):
    """An endless, shuffled stream of activation rows that can be read from any position."""

    @property
    def d(self) -> int:
        """Width of a row."""
        ...

    @property
    def rows(self) -> int:
        """Rows of one epoch: the training rows that take part."""
        ...

    def batch(self, position: int, size: int) -> Tensor:
        """Rows position .. position + size of the stream, float32 [size, d].

        A pure function of the source and its seed: epoch `position // rows` visits every row
        once, in an order of its own; epochs follow each other, so a batch may span two.
        """
        ...

    def sample(self, n: int, seed: int) -> Tensor:
        """min(n, rows) distinct rows spread over the whole data set, float32 [., d]."""
        ...


@dataclass(frozen=True)
class _Window:
    """Rows start .. start + N of the stream, in the stored type."""

    start: int
    x_ND: Tensor


class ShardSource:
    """The kept training rows of one source of a data set, or of several side by side.

    Of several, a row takes part only if it is kept in all, and all follow one order.

    Memory: one window of `window_shards` shards in the stored type. Steps that follow each other
    read from it; any other position is exact too, at the price of reading its window.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        source: SourceNames,
        *,
        norm_cut: float,
        seed: int,
        window_shards: int,
    ) -> None:
        """`norm_cut` in medians of the norm (0 cuts none).

        Raises DataMismatchError for an unknown source, DataError when no rows are left.
        """
        self._dataset = dataset
        entries = [dataset.source(name) for name in names_of(source)]
        self._names = tuple(entry.name for entry in entries)
        self._width = sum(entry.d for entry in entries)
        self._norm_cut = norm_cut
        counts = dataset.kept_counts(self._names, "train", norm_cut)
        self._order = RowOrder(counts, seed, window_shards)
        self._window: _Window | None = None
        if self.rows < 1:
            names = " with ".join(self._names)
            raise DataError(
                f"{names} has no training rows of norm up to {norm_cut:g} medians",
                remedy="raise preprocess.norm_cut, or set it to 0 to keep every row",
            )

    @property
    def d(self) -> int:
        """Width of a row, all sources together."""
        return self._width

    @property
    def rows(self) -> int:
        """Kept training rows, the length of an epoch."""
        return self._order.rows

    def batch(self, position: int, size: int) -> Tensor:
        """Rows position .. position + size of the endless stream, float32 [size, d]."""
        x_BD = torch.empty((size, self.d), dtype=torch.float32)
        filled = 0
        while filled < size:
            window = self._window_at(position + filled)
            offset = position + filled - window.start
            part_ND = window.x_ND[offset : offset + size - filled]
            x_BD[filled : filled + len(part_ND)] = part_ND
            filled += len(part_ND)
        return x_BD

    def sample(self, n: int, seed: int) -> Tensor:
        """min(n, rows) distinct rows, one from each of equal stretches, float32 [., d]."""
        chosen = spread_sample(self.rows, n, seed)
        x_ND = torch.empty((len(chosen), self.d), dtype=torch.float32)
        ends = np.cumsum(self._order.counts)
        owners = np.searchsorted(ends, chosen, side="right")
        for shard in np.unique(owners):
            places = np.flatnonzero(owners == shard)
            local = chosen[places] - int(ends[shard]) + self._order.counts[int(shard)]
            x_ND[torch.as_tensor(places)] = self._read(int(shard), local).float()
        return x_ND

    def _window_at(self, position: int) -> _Window:
        window = self._window
        if window is None or not window.start <= position < window.start + len(window.x_ND):
            # Let go of the old window first: two would double the memory.
            self._window = window = None
            self._window = window = self._load(position)
        return window

    def _load(self, position: int) -> _Window:
        place = self._order.place(position)
        shards = self._order.windows(place.epoch)[place.window]
        rows = self._order.window_rows(place.epoch)[place.window]
        # Row r of the stream is row shuffle[r] of the files, so file row i lands at inverse[i].
        inverse = np.argsort(self._order.shuffle(place.epoch, place.window, rows))
        x_ND = torch.empty((rows, self.d), dtype=STORAGE[self._dataset.manifest.dtype])
        start = 0
        for shard in shards:
            part_ND = self._read(int(shard), None)
            x_ND[torch.as_tensor(inverse[start : start + len(part_ND)])] = part_ND
            start += len(part_ND)
        return _Window(position - place.offset, x_ND)

    def _read(self, index: int, chosen: IndexArray | None) -> Tensor:
        """The `chosen` of a shard's kept rows, or all of them, in the stored type."""
        with self._dataset.shard(index) as shard:
            kept = self._dataset.kept(shard, self._names, "train", self._norm_cut)
            return take_columns(shard, self._names, kept if chosen is None else kept[chosen])
