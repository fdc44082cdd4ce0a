"""BatchTopK's choice: the n largest positive pre-activations of a micro-batch, exact.

Blocks of pre-activations are not kept. A level is guessed from the first block, and each block's
entries that reach it are collected; the n largest of those are the n largest of all, if they are n
or more. Otherwise the blocks are computed again with a lower level, so that the guess decides
about time alone. After a product in bfloat16 what may reach the level by `rounding`'s bound is
collected as well. The n largest rounded entries are computed again in the parameters' type; the
least of them is a level that the true n largest reach, and all that may reach that one are computed
again too. Shape suffixes: B rows, R rows of a block, C collected, N chosen, F d_sae.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saeserve.core.kernels import gathers, ranks
from saeserve.core.kernels.compiled import Array, array, arrays, helper, kernel, prange
from saeserve.core.kernels.csr import Csr, join, offsets_of
from saeserve.core.kernels.encoder import ROWS, Encoder
from saeserve.core.kernels.ranks import as_bits, bits, keys_from
from saeserve.core.kernels.rounding import UNIT, Errors, lowest_rounded
from saeserve.core.kernels.topk.entries import Entries

_SLACKS = (1.2, 2.0, 8.0)
"""How many times the wanted entries the guessed levels aim at, one after the other; after the last
all positive entries are collected."""
_STRIDE = 17
"""Stride of the sample: a prime, so it visits all latents unless d_sae is a multiple of it."""


class BatchEntries(NamedTuple):
    """What is kept, and the scalar between the smallest kept and the largest left (0 or more)."""

    entries: Entries
    level: Tensor


def top_of_batch(encoder: Encoder, n: int, widths: tuple[int, ...]) -> BatchEntries:
    """The n largest positive entries, fewer where there are fewer; among equals the first win.

    Group g of a row has the latents below widths[g] that the groups before it lack.
    """
    rows, latents = encoder.x_BD.shape[0], encoder.W_FD.shape[0]
    n = min(n, rows * latents)
    # The largest that is left is looked for too: it tells the level.
    found = _collect(encoder, n + 1) if encoder.exact else _collect_exactly(encoder, n + 1)
    places_N, level = _cut(found.values, n)
    kept = found.at(places_N)
    edges_BE = torch.empty(rows, len(widths) + 1, dtype=torch.int64)
    bounds = torch.tensor(widths, dtype=torch.int64)
    _edges(*arrays(kept.offsets, kept.latents, bounds, edges_BE))
    return BatchEntries(Entries(kept.offsets, kept.latents, kept.values, edges_BE), level)


def _collect(encoder: Encoder, wanted: int) -> Csr:
    """At least `wanted` of the largest, if there are so many."""
    none_B = encoder.x_BD.new_zeros(encoder.x_BD.shape[0])
    for slack in _SLACKS:
        found, level = _collect_above(encoder, wanted, slack, none_B)
        if level == 0 or found.values.numel() >= wanted:
            return found
    return _collect_above(encoder, wanted, None, none_B)[0]


def _collect_exactly(encoder: Encoder, wanted: int) -> Csr:
    """All that may be among the `wanted` largest, computed again in the parameters' type."""
    errors = encoder.errors
    found, largest_N, exact_N, level = _rounded(encoder, wanted, errors)
    wanted_C = torch.zeros(found.values.shape, dtype=torch.bool)
    wanted_C[largest_N] = True
    near_C = torch.empty_like(wanted_C)
    _mark_near(
        *arrays(found.offsets, found.latents, as_bits(found.values), wanted_C),
        *arrays(errors.norm_B, errors.lost_B, errors.norm_F, errors.lost_F, errors.bias_F),
        *arrays(level[None], near_C),
    )
    near_N = near_C.nonzero().squeeze(1)
    exact_C = exact_N.new_empty(near_C.shape)
    exact_C[largest_N], exact_C[near_N] = exact_N, _recomputed(encoder, found.at(near_N))
    kept_N = (wanted_C | near_C).nonzero().squeeze(1)
    kept = found.at(kept_N)
    return Csr(kept.offsets, kept.latents, exact_C[kept_N])


def _rounded(encoder: Encoder, wanted: int, errors: Errors) -> tuple[Csr, Tensor, Tensor, Tensor]:
    """All entries that may reach a level, which the `wanted` largest do; the places and the exact
    values of the largest rounded ones; and the level, the least of those values."""
    largest_B = errors.largest().nan_to_num(0.0, torch.inf)
    for slack in (*_SLACKS, None):
        found, guess = _collect_above(encoder, wanted, slack, largest_B)
        places_N, _ = _cut(found.values, wanted)
        exact_N = _recomputed(encoder, found.at(places_N))
        enough = exact_N.numel() == wanted
        level = exact_N.amin().clamp_min(0) if enough else exact_N.new_zeros(())
        if slack is None or not bool(level < guess):
            return found, places_N, exact_N, level
    raise AssertionError("the last slack is None")


def _collect_above(
    encoder: Encoder, wanted: int, slack: float | None, errors_B: Tensor
) -> tuple[Csr, float]:
    """The entries that may reach a level, each row's erring by `errors_B` at most; and the level,
    which is 0 where all positive entries are wanted."""
    rows, level = encoder.x_BD.shape[0], 0.0
    parts: list[Csr] = []
    columns_RF = torch.empty(min(ROWS, rows), encoder.W_FD.shape[0], dtype=torch.int32)
    for block, h_RF in encoder.blocks():
        if block.start == 0 and slack is not None:
            level = _guess(h_RF, wanted * h_RF.shape[0] / rows * slack)
        lowest_R = lowest_rounded(level - errors_B[block], h_RF.dtype)
        parts.append(_reaching(h_RF, lowest_R, columns_RF))
    return join(parts), level


def _guess(h_RF: Tensor, count: float) -> float:
    """A level, positive, that about `count` entries of a block reach; 0 if that is all of them."""
    sample = h_RF.view(-1)[::_STRIDE]
    few = int(count / _STRIDE) + ranks.SPARE
    if few >= sample.numel():
        return 0.0
    return max(0.0, float(sample.topk(few, sorted=False).values.amin().nan_to_num(0.0)))


def _reaching(h_RF: Tensor, lowest_R: Tensor, columns_RF: Tensor) -> Csr:
    counts_R = torch.empty(h_RF.shape[0], dtype=torch.int64)
    _find(bits(h_RF), array(keys_from(lowest_R, h_RF.dtype)), array(columns_RF), array(counts_R))
    offsets = offsets_of(counts_R)
    latents_C = offsets.new_empty(int(offsets[-1]))
    values_C = h_RF.new_empty(latents_C.shape)
    _pack(bits(h_RF), array(columns_RF), array(offsets), array(latents_C), bits(values_C))
    return Csr(offsets, latents_C, values_C)


def _recomputed(encoder: Encoder, found: Csr) -> Tensor:
    values_C = encoder.x_BD.new_empty(found.latents.shape)
    gathers.dot_bags(*arrays(encoder.x_BD, found.latents, found.offsets, encoder.W_FD, values_C))
    return values_C.add_(encoder.b_F[found.latents])


def _cut(values_C: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Ascending places of the n largest positive values, and the level below them; NaN counts as
    largest: a divergence is kept, and shown."""
    keys = as_bits(values_C.where(~values_C.isnan(), torch.nan))
    places_N = keys.new_empty(n, dtype=torch.int64)
    edge = keys.new_zeros(2)
    count = _place_largest(array(keys), n, array(places_N), array(edge))
    last, left = edge.view(values_C.dtype).unbind()
    return places_N[:count], (last + left) / 2 if count == n else last.new_zeros(())


@helper
def _find_in(keys_F: Array, bound: int, columns_F: Array) -> int:
    """Columns, ascending, of the entries that reach `bound`; without a branch for each."""
    count, level = 0, keys_F.dtype.type(bound)
    for column in range(keys_F.shape[0]):
        columns_F[count] = column
        count += keys_F[column] >= level
    return count


@helper
def _find_below_zero(keys_F: Array, bound: int, columns_F: Array) -> int:
    """The same for a bound that negative numbers may reach."""
    count, sign = 0, keys_F.itemsize * 8 - 1
    for column in range(keys_F.shape[0]):
        columns_F[count] = column
        count += int(ranks.ordered(np.int64(keys_F[column]), sign) >= bound)
    return count


@kernel
def _find(keys_RF: Array, bounds_R: Array, columns_RF: Array, counts_R: Array) -> None:
    """columns[r] = those of the counts[r] entries with keys[r, f] >= bounds[r], ascending."""
    # Rows fall to threads in turn, for their counts differ.
    for row in prange(keys_RF.shape[0]):
        if bounds_R[row] > 0:
            counts_R[row] = _find_in(keys_RF[row], bounds_R[row], columns_RF[row])
        else:
            counts_R[row] = _find_below_zero(keys_RF[row], bounds_R[row], columns_RF[row])


@kernel
def _mark_near(
    offsets: Array,
    latents_C: Array,
    keys_C: Array,
    taken_C: Array,
    norm_B: Array,
    lost_B: Array,
    norm_F: Array,
    lost_F: Array,
    bias_F: Array,
    level_1: Array,
    near_C: Array,
) -> None:
    """near[c] = h' + UNIT |h'| + error >= level, of the bfloat16 h' that are not taken, where
    error = lost[i] norm[b] + norm[i] lost[b] + bias[i]."""
    for row in prange(offsets.shape[0] - 1):
        number_1 = np.empty(1, np.float32)
        bits_1 = number_1.view(np.int32)
        # A bfloat16 is the upper half of a float32.
        for c in range(offsets[row], offsets[row + 1]):
            i = latents_C[c]
            bits_1[0] = np.int32(keys_C[c]) << 16
            error = lost_F[i] * norm_B[row] + norm_F[i] * lost_B[row] + bias_F[i]
            highest = number_1[0] + UNIT * abs(number_1[0]) + error
            near_C[c] = highest >= level_1[0] and not taken_C[c]


@kernel
def _pack(
    keys_RF: Array, columns_RF: Array, offsets: Array, latents_C: Array, keys_C: Array
) -> None:
    """latents, keys = what was found in the rows, one row after the other."""
    for row in prange(keys_RF.shape[0]):
        # Row r has its place from offsets[r] on.
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
    # Of those that equal the level, the first are kept, as many as there is place for.
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
    """edges[b, g + 1] = the first place in row b whose latent is not below widths[g]."""
    for row in prange(edges_BE.shape[0]):
        place = offsets[row]
        edges_BE[row, 0] = place
        # Latents ascend in a row, and widths do.
        for g in range(widths_G.shape[0]):
            while place < offsets[row + 1] and latents_N[place] < widths_G[g]:
                place += 1
            edges_BE[row, g + 1] = place
