"""The entries of [B, F] that are unlike the rest.

Nearly all entries of a JumpReLU batch are silent, and on the same side of the band's lower edge. An
interval says where those usual ones are; what is outside is listed with its exact pre-activation.
After a low-precision GEMM everything that is not surely inside is listed, and computed again: so
the lists, and all that follows from them, are those of exact pre-activations.
Inner loops of kernels run over slices: with a computed index numba would allow for negative ones,
and LLVM not vectorise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saeserve.core.kernels.compiled import Array, array, arrays, helper, kernel, prange
from saeserve.core.kernels.csr import Csr, join, offsets_of
from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.jumprelu import entries
from saeserve.core.kernels.jumprelu.margins import Margins
from saeserve.core.kernels.lanes import Number

BLOCKED_ABOVE = 1 / 64
"""Share of listed entries above which weights are worth keeping in the cache."""
BLOCK = 256
"""Latents whose weights are kept."""
TILE = 256
"""Latents whose flags are computed at a time, so that they stay in the first cache."""
WORD = 8
"""Flags that are looked at together: most words have none set."""


@dataclass(frozen=True)
class Interval:
    """Usual entries lie strictly between, levels [F]; `in_band` says on which side of the band's
    lower edge they are: 1 in it, 0 below."""

    low_F: Tensor
    high_F: Tensor
    in_band: float


@dataclass(frozen=True)
class ByRow(Csr):
    """Entries outside an interval, in ascending order of row and latent; values are exact h."""

    interval: Interval
    width: int
    """Number of latents."""

    def decode_onto(self, y_BO: Tensor, W_FO: Tensor, threshold_F: Tensor) -> None:
        """y += f W, where f is h above the threshold, else 0."""
        output = (array(y_BO), array(W_FO), array(threshold_F))
        entries.decode_onto(*output, *self._arrays(), self._block())

    def make_exact(self, encoder: Encoder) -> None:
        """Compute h again, in the parameters' type."""
        layer = (array(encoder.x_BD), array(encoder.W_FD), array(encoder.b_F))
        entries.exact_values(*layer, *self._arrays(), self._block())

    def _arrays(self) -> tuple[Array, Array, Array]:
        return array(self.offsets), array(self.latents), array(self.values)

    def _block(self) -> int:
        """Latents to take at a time: few where enough is listed to pass weights block by block."""
        blocked = self.values.numel() > BLOCKED_ABOVE * self.rows * self.width
        return BLOCK if blocked else self.width


def shares_outside(encoder: Encoder, intervals: Sequence[Interval]) -> list[float]:
    """The share of entries outside each interval, judged by the first block of rows."""
    block, h_RF = next(encoder.wide_blocks())
    return [
        float(_Lister(encoder, interval).counts(block, h_RF).sum()) / h_RF.numel()
        for interval in intervals
    ]


def list_outside(encoder: Encoder, interval: Interval, most: float) -> ByRow | None:
    """The entries outside the interval; None where they are more than the share `most` of all."""
    latents, lister, listed = encoder.W_FD.shape[0], _Lister(encoder, interval), 0
    parts: list[Csr] = []
    for block, h_RF in encoder.wide_blocks():
        parts.append(lister.entries(block, h_RF))
        listed += parts[-1].values.numel()
        if listed > most * latents * block.stop:
            return None
    whole = join(parts)
    found = ByRow(whole.offsets, whole.latents, whole.values, interval, latents)
    if not encoder.exact:
        found.make_exact(encoder)
    return found


class _Lister:
    """Finds the entries of blocks that are outside one interval."""

    def __init__(self, encoder: Encoder, interval: Interval) -> None:
        margins = Margins.of(encoder)
        self._levels = (*margins.levels(interval.low_F, interval.high_F), margins.slack_F)
        self._scale_B = margins.scale_B

    def counts(self, block: slice, h_RF: Tensor) -> Tensor:
        """Entries outside, for each row of the block."""
        counts_R = torch.empty(h_RF.shape[0], dtype=torch.int64)
        _count_outside(*arrays(h_RF, *self._levels, self._scale_B[block], counts_R))
        return counts_R

    def entries(self, block: slice, h_RF: Tensor) -> Csr:
        """Latents (int32) and h of those entries."""
        offsets_R1 = offsets_of(self.counts(block, h_RF))
        found = int(offsets_R1[-1])
        latents_N, h_N = torch.empty(found, dtype=torch.int32), h_RF.new_empty(found)
        _list_outside(
            *arrays(h_RF, *self._levels, self._scale_B[block]),
            *arrays(offsets_R1, latents_N, h_N),
        )
        return Csr(offsets_R1, latents_N, h_N)


@helper
def _flag(row: Array, low: Array, high: Array, slack: Array, scale: Number, flags: Array) -> None:
    """1 where an entry is not surely inside; NaN never is."""
    for i in range(row.size):
        margin = slack[i] * scale
        flags[i] = 1 - ((row[i] - margin > low[i]) & (row[i] + margin < high[i]))


@helper
def _places(words: Array, flags: Array, found: Array) -> Number:
    """Write the places of set flags; returns their number."""
    count = np.uint64(0)
    for w in range(words.size):
        if words[w] != 0:
            # Every place is written, and only set flags advance: no branch for each.
            for j in range(WORD):
                place = np.uint64(WORD * w + j)
                found[count] = place
                count += np.uint64(flags[place])
    return np.int64(count)


@kernel
def _count_outside(
    h_RF: Array, low_F: Array, high_F: Array, slack_F: Array, scale_R: Array, counts_R: Array
) -> None:
    """counts[r] = the entries of a row that are not between low and high by more than
    slack · scale."""
    rows, latents = h_RF.shape
    for r in prange(rows):
        row, scale, inside = h_RF[r], scale_R[r], 0
        # What is inside is counted, for NaN is outside.
        for i in range(latents):
            margin = slack_F[i] * scale
            inside += (row[i] - margin > low_F[i]) & (row[i] + margin < high_F[i])
        counts_R[r] = latents - inside


@kernel
def _list_outside(
    h_RF: Array,
    low_F: Array,
    high_F: Array,
    slack_F: Array,
    scale_R: Array,
    offsets_R1: Array,
    latents_N: Array,
    values_N: Array,
) -> None:
    """Write latents and values of the counted entries, by row and ascending by latent."""
    rows, latents = h_RF.shape
    for r in prange(rows):
        row, place = h_RF[r], offsets_R1[r]
        flags, found = np.zeros(TILE, np.uint8), np.empty(TILE + 1, np.int32)
        words = flags.view(np.uint64)
        # A tile's flags are written in vectors, then read a word at a time.
        for start in range(0, latents, TILE):
            end = min(start + TILE, latents)
            tile, flags[:] = row[start:end], 0
            _flag(tile, low_F[start:end], high_F[start:end], slack_F[start:end], scale_R[r], flags)
            count = _places(words, flags, found)
            for n in range(count):
                latents_N[place + n] = start + found[n]
                values_N[place + n] = tile[found[n]]
            place += count
