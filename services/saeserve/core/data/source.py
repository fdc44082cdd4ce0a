"""What the trainer reads rows from; shards on disk are one kind, a running harvest another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from saeserve.core.data.ahead import Ahead, Background
from saeserve.core.data.dataset import ShardedDataset, SourceNames, names_of, take_columns
from saeserve.core.data.order import RowOrder, spread_sample
from saeserve.core.data.shards import IndexArray
from saeserve.core.data.tensor_file import STORAGE
from saeserve.core.data.windows import Places, Window, WindowReader
from saeserve.core.moving import moved
from saeserve.errors import DataError


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


class ShardSource:
    """The kept training rows of one source of a data set, or of several side by side.

    Of several, a row takes part only if it is kept in all, and all follow one order.

    Memory: two windows of `window_shards` shards in the stored type, of which one is read ahead on
    a thread of its own while the other is used. Steps that follow each other wait only where the
    disk is slower than they are; any other position is exact too, at the price of its window.
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
        self._reader = WindowReader(dataset, self._names, norm_cut, self._order, self._width)
        self._window: Window | None = None
        self._places: Places | None = None
        self._ahead: tuple[int, Ahead[Window]] | None = None
        self._background = Background()
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

    @property
    def dtype(self) -> torch.dtype:
        """The type in which rows are stored."""
        return STORAGE[self._dataset.manifest.dtype]

    def batch(self, position: int, size: int) -> Tensor:
        """Rows position .. position + size of the endless stream, float32 [size, d]."""
        x_BD = torch.empty((size, self.d), dtype=torch.float32)
        self.fill(position, x_BD)
        return x_BD

    def fill(self, position: int, into_ND: Tensor) -> None:
        """Copy rows from `position` on into memory of the stored type or of float32."""
        filled = 0
        while filled < len(into_ND):
            place = position + filled
            filled += self._window_at(place).copy(place, into_ND[filled:])
            moved()

    def places(self, position: int, into_N: Tensor) -> None:
        """Say where rows from `position` on lie in the table of `pieces`, int64. Reads none."""
        filled = 0
        while filled < len(into_N):
            place = position + filled
            if self._places is None or not self._places.holds(place):
                self._places = self._reader.places(place)
            found_N = self._places.of(place, len(into_N) - filled)
            into_N[filled : filled + len(found_N)] = found_N
            filled += len(found_N)

    def pieces(self) -> Iterator[Tensor]:
        """All kept rows in the stored type, shard after shard by number."""
        for shard, count in enumerate(self._order.counts):
            if count:
                yield self._read(shard, np.arange(count))

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

    def _window_at(self, position: int) -> Window:
        window = self._window
        if window is None or not window.holds(position):
            self._window = window = self._next(position)
            self._ahead = self._read_ahead(window)
        return window

    def _next(self, position: int) -> Window:
        """The window of `position`: the one that was read ahead, or else read now."""
        ahead, self._ahead = self._ahead, None
        # Let go of the old window first: three would be too much.
        self._window = None
        if ahead is None:
            return self._reader.load(position, None)
        start, reading = ahead
        if start == position - self._order.place(position).offset:
            return reading.result()
        reading.discard()
        return self._reader.load(position, None)

    def _read_ahead(self, window: Window) -> tuple[int, Ahead[Window]]:
        """The window after `window`, by its first position."""
        reader, end = self._reader, window.end
        return end, Ahead(lambda: reader.load(end, window), self._background)

    def _read(self, index: int, chosen: IndexArray) -> Tensor:
        """The `chosen` of a shard's kept rows, in the stored type."""
        with self._dataset.shard(index) as shard:
            kept = self._dataset.kept(shard, self._names, "train", self._norm_cut)
            return take_columns(shard, self._names, kept[chosen])
