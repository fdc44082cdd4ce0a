"""Kernels that read pre-activations of a block of rows and list the entries outside an interval.

Inner loops run over slices: with a computed index numba would allow for negative ones, and LLVM
not vectorise.
"""

from __future__ import annotations

import numpy as np

from saeserve.core.kernels.compiled import Array, helper, kernel, prange
from saeserve.core.kernels.lanes import Number

TILE = 256
"""Latents whose flags are computed at a time, so that they stay in the first cache."""
WORD = 8
"""Flags that are looked at together: most words have none set."""


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
            for j in range(WORD):
                place = np.uint64(WORD * w + j)
                found[count] = place
                count += np.uint64(flags[place])
    return np.int64(count)


@kernel
def count_outside(
    h_RF: Array, low_F: Array, high_F: Array, slack_F: Array, scale_R: Array, counts_R: Array
) -> None:
    """Entries of each row that are not between low and high by more than slack · scale."""
    rows, latents = h_RF.shape
    for r in prange(rows):
        row, scale, inside = h_RF[r], scale_R[r], 0
        for i in range(latents):
            margin = slack_F[i] * scale
            inside += (row[i] - margin > low_F[i]) & (row[i] + margin < high_F[i])
        counts_R[r] = latents - inside


@kernel
def list_outside(
    h_RF: Array,
    low_F: Array,
    high_F: Array,
    slack_F: Array,
    scale_R: Array,
    offsets_R1: Array,
    latents_N: Array,
    values_N: Array,
) -> None:
    """Those entries, by row and ascending: their latents and values. Space is as was counted."""
    rows, latents = h_RF.shape
    for r in prange(rows):
        row, place = h_RF[r], offsets_R1[r]
        flags, found = np.zeros(TILE, np.uint8), np.empty(TILE + 1, np.int32)
        words = flags.view(np.uint64)
        for start in range(0, latents, TILE):
            end = min(start + TILE, latents)
            tile, flags[:] = row[start:end], 0
            _flag(tile, low_F[start:end], high_F[start:end], slack_F[start:end], scale_R[r], flags)
            count = _places(words, flags, found)
            for n in range(count):
                latents_N[place + n] = start + found[n]
                values_N[place + n] = tile[found[n]]
            place += count
