"""The order of training rows: a pure function of (seed, epoch, position).

Shards are permuted, and rows are permuted within a window of W shards, so that reading stays
local while rows that were neighbours part. Draws come from Philox keyed by (seed, purpose) at a
counter made of (epoch, window): any place of any epoch is reached without drawing what precedes
it. Only raw bits are used, whose stream numpy keeps stable from release to release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeserve.core.data.shards import IndexArray

_SHARDS, _ROWS, _SAMPLE, _SHUFFLE = range(4)


class Place(NamedTuple):
    """A position of the endless stream: which window of which epoch, and the row within it."""

    epoch: int
    window: int
    offset: int


@dataclass(frozen=True)
class RowOrder:
    """The order over shards that hold `counts` rows each; shards without rows are left out.

    `seed` is in [0, 2**64); `window_shards` is W.
    """

    counts: tuple[int, ...]
    seed: int
    window_shards: int

    @property
    def rows(self) -> int:
        """Rows of one epoch."""
        return sum(self.counts)

    def windows(self, epoch: int) -> list[IndexArray]:
        """The shards of every window of an epoch."""
        shards = np.flatnonzero(np.array(self.counts))
        shuffled = shards[permutation(len(shards), self.seed, _SHARDS, epoch)]
        starts = range(0, len(shuffled), self.window_shards)
        return [shuffled[start : start + self.window_shards] for start in starts]

    def window_rows(self, epoch: int) -> list[int]:
        """Sizes of an epoch's windows, in the order in which they are read."""
        counts = np.array(self.counts)
        return [int(counts[shards].sum()) for shards in self.windows(epoch)]

    def place(self, position: int) -> Place:
        """Where the row at `position` of the stream is read."""
        epoch, offset = divmod(position, self.rows)
        ends = np.cumsum(self.window_rows(epoch))
        window = int(np.searchsorted(ends, offset, side="right"))
        return Place(epoch, window, offset - (int(ends[window - 1]) if window else 0))

    def shuffle(self, epoch: int, window: int, rows: int) -> IndexArray:
        """The permutation of a window's rows, which are counted shard after shard."""
        return permutation(rows, self.seed, _ROWS, epoch, window)


def permutation(n: int, seed: int, purpose: int, epoch: int = 0, window: int = 0) -> IndexArray:
    """A permutation of range(n), keyed by all of the arguments."""
    return np.argsort(_raw(n, seed, purpose, epoch, window), kind="stable")


def spread_sample(rows: int, n: int, seed: int) -> IndexArray:
    """min(n, rows) distinct indices below `rows`: one from each of equal stretches, shuffled."""
    n = min(n, rows)
    edges = np.array([i * rows // n for i in range(n + 1)], dtype=np.int64)
    lengths = np.diff(edges).astype(np.uint64)
    chosen = edges[:-1] + (_raw(n, seed, _SAMPLE) % lengths).astype(np.int64)
    return chosen[permutation(n, seed, _SHUFFLE)]


def _raw(n: int, seed: int, purpose: int, epoch: int = 0, window: int = 0) -> NDArray[np.uint64]:
    key = np.array([seed, purpose], dtype=np.uint64)
    # The low words count the draws themselves, so streams of different counters never meet.
    counter = np.array([0, 0, window, epoch], dtype=np.uint64)
    return np.asarray(np.random.Philox(key=key, counter=counter).random_raw(n), dtype=np.uint64)
