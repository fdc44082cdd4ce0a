"""The rows of a window of shards in memory, and how they are read from disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saeserve.core.data.dataset import ShardedDataset, copy_columns
from saeserve.core.data.order import RowOrder
from saeserve.core.data.shards import IndexArray
from saeserve.core.data.tensor_file import STORAGE


@dataclass(frozen=True)
class Places:
    """Where rows start .. start + N of the stream lie in some table of rows."""

    start: int
    order_N: Tensor
    """int64"""

    @property
    def end(self) -> int:
        """The position after the last row."""
        return self.start + len(self.order_N)

    def holds(self, position: int) -> bool:
        """Whether the row at `position` of the stream is here."""
        return self.start <= position < self.end

    def of(self, position: int, most: int) -> Tensor:
        """The places of rows from `position` on, at most so many."""
        offset = position - self.start
        return self.order_N[offset : offset + most]


@dataclass(frozen=True)
class Window(Places):
    """Rows start .. start + N of the stream, in the stored type.

    They lie as in their files, shard after shard by number, and are shuffled when they are read:
    copying in order is quick, and an epoch that has the same shards needs only another order.
    """

    shards: IndexArray
    """Ascending."""
    x_ND: Tensor

    def copy(self, position: int, into_ND: Tensor) -> int:
        """Copy rows from `position` on into memory that may be wider, as many as are here and have
        room there; returns how many."""
        chosen_N = self.of(position, len(into_ND))
        rows = len(chosen_N)
        if into_ND.dtype == self.x_ND.dtype:
            torch.index_select(self.x_ND, 0, chosen_N, out=into_ND[:rows])
        else:
            into_ND[:rows] = self.x_ND.index_select(0, chosen_N)
        return rows


@dataclass(frozen=True)
class WindowReader:
    """Reads windows of an order over a data set's kept training rows."""

    dataset: ShardedDataset
    names: Sequence[str]
    norm_cut: float
    order: RowOrder
    width: int

    def load(self, position: int, before: Window | None) -> Window:
        """The window that holds `position`; takes the rows of `before` where they are the same.

        Raises DataError naming the shard that cannot be read.
        """
        place = self.order.place(position)
        ascending = np.sort(self.order.windows(place.epoch)[place.window])
        found = self._places(position, ascending)
        same = before is not None and np.array_equal(before.shards, ascending)
        x_ND = before.x_ND if before is not None and same else self._read(ascending, found)
        return Window(found.start, found.order_N, ascending, x_ND)

    def places(self, position: int) -> Places:
        """Where the rows of the window that holds `position` lie in a table of all kept rows, shard
        after shard by number."""
        return self._places(position, np.arange(len(self.order.counts)))

    def _places(self, position: int, lying: IndexArray) -> Places:
        """Where they lie among the rows of the shards `lying`, which are ascending."""
        place = self.order.place(position)
        shards = self.order.windows(place.epoch)[place.window]
        rows = self.order.window_rows(place.epoch)[place.window]
        shuffled = self.order.shuffle(place.epoch, place.window, rows)
        order_N = self._lying(shards, lying)[shuffled]
        return Places(position - place.offset, torch.as_tensor(order_N))

    def _lying(self, shards: IndexArray, ascending: IndexArray) -> IndexArray:
        """Where the rows lie, counted shard after shard in the order of `shards`."""
        starts: dict[int, int] = {}
        after = 0
        for shard in map(int, ascending):
            starts[shard] = after
            after += self.order.counts[shard]
        parts = [starts[each] + np.arange(self.order.counts[each]) for each in map(int, shards)]
        return np.concatenate(parts)

    def _read(self, shards: IndexArray, places: Places) -> Tensor:
        rows = len(places.order_N)
        x_ND = torch.empty((rows, self.width), dtype=STORAGE[self.dataset.manifest.dtype])
        start = 0
        for index in shards:
            with self.dataset.shard(int(index)) as shard:
                kept = self.dataset.kept(shard, self.names, "train", self.norm_cut)
                copy_columns(shard, self.names, kept, x_ND[start : start + len(kept)])
                start += len(kept)
        return x_ND
