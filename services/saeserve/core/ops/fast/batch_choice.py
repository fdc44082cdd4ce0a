"""BatchTopK's choice: the n largest positive pre-activations of a micro-batch, exact.

Blocks of pre-activations are not kept. A level is guessed from the first block, and each block's
entries that reach it are collected; the n largest of those are the n largest of all, if they are n
or more. Otherwise the blocks are computed again with a lower level, so that the guess decides
about time alone. Shape suffixes: B rows, R rows of a block, C collected, N chosen, F d_sae.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saeserve.core.ops.compiled import Array, array, helper, kernel, prange
from saeserve.core.ops.fast import gathers, ranks
from saeserve.core.ops.fast.choice import SPARE_CANDIDATES, Entries, as_bits, bits
from saeserve.core.ops.fast.encoder import ROWS, Encoder

_SLACKS = (1.2, 2.0, 8.0)
"""How many times the wanted entries the guessed levels aim at, one after the other; after the last
all positive entries are collected."""
_STRIDE = 17
"""Of the sample: a prime, so that it visits all latents unless d_sae is a multiple of it."""


class BatchEntries(NamedTuple):
    """What is kept, and the scalar between the smallest kept and the largest left (0 or more)."""

    entries: Entries
    level: Tensor


@dataclass(frozen=True)
class _Collected:
    """Entries in ascending order of row and latent; those of row b from offsets[b] on."""

    offsets: Tensor
    latents_C: Tensor
    values_C: Tensor

    def at(self, places_N: Tensor) -> _Collected:
        """Only the entries at these places, which ascend."""
        offsets = torch.searchsorted(places_N, self.offsets)
        return _Collected(offsets, self.latents_C[places_N], self.values_C[places_N])


def top_of_batch(encoder: Encoder, n: int, widths: tuple[int, ...]) -> BatchEntries:
    """The n largest positive entries, fewer where there are fewer; among equals the first win.

    Group g of a row has the latents below widths[g] that the groups before it lack. After a
    low-precision GEMM more than n are computed again in the parameters' type.
    """
    rows, latents = encoder.x_BD.shape[0], encoder.W_FD.shape[0]
    n = min(n, rows * latents)
    # One more than n tells the level in exact arithmetic.
    wanted = n + 1 if encoder.exact else n + SPARE_CANDIDATES * rows
    found = _collect(encoder, wanted)
    found = found.at(_cut(found.values_C, wanted).places_N)
    if not encoder.exact:
        found = _recomputed(encoder, found)
    cut = _cut(found.values_C, n)
    kept = found.at(cut.places_N)
    edges_BE = torch.empty(rows, len(widths) + 1, dtype=torch.int64)
    bounds = torch.tensor(widths, dtype=torch.int64)
    _edges(array(kept.offsets), array(kept.latents_C), array(bounds), array(edges_BE))
    return BatchEntries(Entries(kept.values_C, kept.latents_C, edges_BE), cut.level)


def _collect(encoder: Encoder, wanted: int) -> _Collected:
    for slack in _SLACKS:
        found, lowest = _collect_above(encoder, wanted, slack)
        if lowest or found.values_C.numel() >= wanted:
            return found
    return _collect_above(encoder, wanted, None)[0]


def _collect_above(encoder: Encoder, wanted: int, slack: float | None) -> tuple[_Collected, bool]:
    """The entries that reach a level, and whether those are all positive ones."""
    rows, bound = encoder.x_BD.shape[0], 1
    parts: list[_Collected] = []
    columns_RF = torch.empty(min(ROWS, rows), encoder.W_FD.shape[0], dtype=torch.int32)
    for start, h_RF in encoder.blocks():
        if start == 0 and slack is not None:
            bound = _guess(h_RF, wanted * h_RF.shape[0] / rows * slack)
        parts.append(_reaching(h_RF, bound, columns_RF))
    counts = torch.cat([part.offsets.diff() for part in parts])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    latents_C = torch.cat([part.latents_C for part in parts])
    return _Collected(offsets, latents_C, torch.cat([part.values_C for part in parts])), bound == 1


def _guess(h_RF: Tensor, count: float) -> int:
    """Bits of a level, positive, that about `count` entries of a block reach."""
    sample = h_RF.view(-1)[::_STRIDE]
    few = int(count / _STRIDE) + 16
    if few >= sample.numel():
        return 1
    return max(1, int(as_bits(sample.topk(few, sorted=False).values).amin()))


def _reaching(h_RF: Tensor, bound: int, columns_RF: Tensor) -> _Collected:
    counts_R = torch.empty(h_RF.shape[0], dtype=torch.int64)
    _find(bits(h_RF), bound, array(columns_RF), array(counts_R))
    offsets = torch.cat([counts_R.new_zeros(1), counts_R.cumsum(0)])
    latents_C = offsets.new_empty(int(offsets[-1]))
    values_C = h_RF.new_empty(latents_C.shape)
    _pack(bits(h_RF), array(columns_RF), array(offsets), array(latents_C), bits(values_C))
    return _Collected(offsets, latents_C, values_C)


def _recomputed(encoder: Encoder, found: _Collected) -> _Collected:
    values_C = encoder.x_BD.new_empty(found.latents_C.shape)
    gathers.dot_bags(
        *(array(encoder.x_BD), array(found.latents_C), array(found.offsets)),
        *(array(encoder.W_FD), array(values_C)),
    )
    values_C += encoder.b_F[found.latents_C]
    return _Collected(found.offsets, found.latents_C, values_C)


class _Cut(NamedTuple):
    places_N: Tensor
    level: Tensor


def _cut(values_C: Tensor, n: int) -> _Cut:
    """Ascending places of the n largest positive values, and the level below them; NaN counts as
    largest: a divergence is kept, and shown."""
    keys = as_bits(values_C.where(~values_C.isnan(), torch.nan))
    places_N = keys.new_empty(n, dtype=torch.int64)
    edge = keys.new_zeros(2)
    count = _place_largest(array(keys), n, array(places_N), array(edge))
    last, left = edge.view(values_C.dtype).unbind()
    return _Cut(places_N[:count], (last + left) / 2 if count == n else last.new_zeros(()))


@helper
def _find_in(keys_F: Array, bound: int, columns_F: Array) -> int:
    """Columns, ascending, of the entries that reach `bound`; without a branch for each."""
    count, level = 0, keys_F.dtype.type(bound)
    for column in range(keys_F.shape[0]):
        columns_F[count] = column
        count += keys_F[column] >= level
    return count


@kernel
def _find(keys_RF: Array, bound: int, columns_RF: Array, counts_R: Array) -> None:
    for row in prange(keys_RF.shape[0]):
        counts_R[row] = _find_in(keys_RF[row], bound, columns_RF[row])


@kernel
def _pack(
    keys_RF: Array, columns_RF: Array, offsets: Array, latents_C: Array, keys_C: Array
) -> None:
    """What was found in the rows, one row after the other."""
    for row in prange(keys_RF.shape[0]):
        for c in range(offsets[row + 1] - offsets[row]):
            column = columns_RF[row, c]
            latents_C[offsets[row] + c] = column
            keys_C[offsets[row] + c] = keys_RF[row, column]


@helper
def _place_largest(keys_C: Array, n: int, places_N: Array, edge: Array) -> int:
    """Places of the n largest positive keys; `edge` is the smallest kept and the largest left."""
    level = np.int64(1)
    if keys_C.shape[0] >= n:
        level = max(level, ranks.level_of(keys_C, n))
    above = 0
    for c in range(keys_C.shape[0]):
        above += keys_C[c] > level
    kept, equal, left = 0, n - above, np.int64(0)
    for c in range(keys_C.shape[0]):
        tied = keys_C[c] == level
        if kept < n and (keys_C[c] > level or (tied and equal > 0)):
            places_N[kept] = c
            kept += 1
            equal -= tied
        else:
            left = max(left, np.int64(keys_C[c]))
    edge[0], edge[1] = level, left
    return kept


@kernel
def _edges(offsets: Array, latents_N: Array, widths_G: Array, edges_BE: Array) -> None:
    """Where each row's groups begin and end; latents ascend in a row."""
    for row in prange(edges_BE.shape[0]):
        place = offsets[row]
        edges_BE[row, 0] = place
        for g in range(widths_G.shape[0]):
            while place < offsets[row + 1] and latents_N[place] < widths_G[g]:
                place += 1
            edges_BE[row, g + 1] = place
