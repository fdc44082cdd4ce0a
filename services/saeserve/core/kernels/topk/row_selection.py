"""TopK's choice: the n largest pre-activations of each row, exact.

After a product in bfloat16 a row's n largest are computed again in the parameters' type; the least
of them is a level that the true n largest reach. Every other latent whose rounded pre-activation
may stand for one of that level or more, by `rounding`'s bound, is computed again too. So no count
of spare candidates has to be chosen: rows with many near ties have many.
Shape suffixes: B rows, R rows of a block, S shares, C candidates, K chosen, F d_sae, D d_in.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saeserve.core.kernels import gathers, ranks
from saeserve.core.kernels.compiled import SHARES, Array, array, helper, kernel, prange
from saeserve.core.kernels.csr import offsets_of
from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.lanes import Number
from saeserve.core.kernels.ranks import bits
from saeserve.core.kernels.rounding import UNIT
from saeserve.core.kernels.topk.entries import Entries

_Out = tuple[Tensor, Tensor, Tensor]
"""Values [B, K], latents [B, K], and edges from each row's own beginning [B, E]."""


def top(encoder: Encoder, sizes: tuple[int, ...]) -> Entries:
    """The n largest pre-activations of each row above zero, n = sizes[-1]; of groups, the first
    has the largest sizes[0]."""
    rows, latents = encoder.x_BD.shape[0], encoder.W_FD.shape[0]
    n = min(sizes[-1], latents)
    values_BK = encoder.x_BD.new_empty(rows, n)
    latents_BK = torch.empty(rows, n, dtype=torch.int64)
    edges_BE = latents_BK.new_empty(rows, len(sizes) + 1)
    choose = _from_exact if encoder.exact else _from_rounded
    choose(encoder, min(sizes[0], n), (values_BK, latents_BK, edges_BE))
    offsets = offsets_of(edges_BE[:, -1])
    found = values_BK.view(-1), latents_BK.view(-1)
    if int(offsets[-1]) < rows * n:
        # Some rows have fewer than n above zero.
        kept_BK = torch.arange(n) < edges_BE[:, -1:]
        found = values_BK[kept_BK], latents_BK[kept_BK]
    return Entries(offsets, found[1], found[0], edges_BE + offsets[:-1, None])


def _from_exact(encoder: Encoder, first: int, out: _Out) -> None:
    columns_BK, values_BK = torch.empty_like(out[1]), torch.empty_like(out[0])
    for block, h_RF in encoder.blocks():
        ranks.top_columns(bits(h_RF), array(columns_BK[block]))
        torch.gather(h_RF, 1, columns_BK[block], out=values_BK[block])
    _part_rows(
        *(array(values_BK), bits(values_BK), array(columns_BK), first),
        *(array(out[0]), array(out[1]), array(out[2])),
    )


def _from_rounded(encoder: Encoder, first: int, out: _Out) -> None:
    errors = encoder.errors
    largest_B = errors.largest()
    # Candidates' values of each share; most of it is never touched.
    work_SF = encoder.x_BD.new_empty(SHARES, encoder.W_FD.shape[0])
    for block, h_RF in encoder.blocks():
        _choose(
            *(bits(h_RF), array(encoder.x_BD[block]), array(encoder.W_FD), array(encoder.b_F)),
            *(array(largest_B[block]), array(errors.norm_B[block]), array(errors.lost_B[block])),
            *(array(errors.norm_F), array(errors.lost_F), array(errors.bias_F)),
            *(array(work_SF), bits(work_SF), first),
            *(array(out[0][block]), array(out[1][block]), array(out[2][block])),
        )


@helper
def _level(values_C: Array) -> Number:
    """The least, and zero at least, for what is not above it is not kept; NaN if there is any."""
    least = values_C[0]
    for value in values_C:
        if value < least or value != value:
            least = value
    return least if not least < 0 else least * 0


@helper
def _key_from(lowest: Number, number_1: Array, bits_1: Array) -> np.int64:
    """A key that all bfloat16 from `lowest` on reach, ordered below zero as well; `bits_1` are the
    bits of `number_1`."""
    number_1[0] = lowest / (1 + UNIT) if lowest > 0 else lowest / (1 - UNIT)
    # Shifted to the upper half, which rounds down, whatever the sign.
    return ranks.ordered(np.int64(bits_1[0]), 31) >> 16


@helper
def _all_from(
    key: np.int64,
    complete: np.int64,
    collected: int,
    keys_F: Array,
    maxima_G: Array,
    columns_F: Array,
    found_F: Array,
) -> int:
    """Have all entries from `key` on in `columns_F` and `found_F`, which hold those from `complete`
    on; returns how many they hold."""
    if key <= 0:
        return ranks.everything(keys_F, columns_F, found_F)
    if key < complete:
        return ranks.collect(keys_F, maxima_G, key, columns_F, found_F)
    return collected


@helper
def _order_row(values_C: Array, bits_C: Array, keys_C: Array) -> None:
    """Keys that are ordered as the values; NaN of either sign is the largest."""
    sign = bits_C.itemsize * 8 - 1
    for c in range(values_C.shape[0]):
        keys_C[c] = ranks.ordered(np.int64(bits_C[c]), sign)
        if values_C[c] != values_C[c]:
            keys_C[c] = np.iinfo(np.int64).max


@helper
def _bring_forward(columns_C: Array, keys_C: Array, places_K: Array, first: int) -> None:
    """Reorder the places, so that the largest `first` stand first."""
    inner, front = np.empty(first, np.int64), np.zeros(places_K.shape[0], np.bool_)
    ranks.keep(columns_C[places_K], keys_C[places_K], inner)
    front[inner] = True
    places_K[:] = np.concatenate((places_K[front], places_K[~front]))


@helper
def _part_row(
    values_C: Array,
    bits_C: Array,
    columns_C: Array,
    first: int,
    work: tuple[Array, Array],
    values_K: Array,
    latents_K: Array,
    edges_E: Array,
) -> None:
    """A row's K largest above zero: the largest `first` of them, then the rest. `edges_E` count
    them from 0; `work` is memory for C keys or more, and K places."""
    keys_C, places_K = work[0][: values_C.shape[0]], work[1]
    _order_row(values_C, bits_C, keys_C)
    ranks.keep(columns_C, keys_C, places_K)
    if first < places_K.shape[0]:
        _bring_forward(columns_C, keys_C, places_K, first)
    edges_E[:] = 0
    for k in range(places_K.shape[0]):
        value, last = values_C[places_K[k]], edges_E[-1]
        if not value <= 0:
            values_K[last], latents_K[last] = value, columns_C[places_K[k]]
            edges_E[-1] += 1
            edges_E[1] += k < first and edges_E.shape[0] > 2


@kernel
def _choose(
    keys_RF: Array,
    x_RD: Array,
    W_FD: Array,
    b_F: Array,
    largest_R: Array,
    norm_R: Array,
    lost_R: Array,
    norm_F: Array,
    lost_F: Array,
    bias_F: Array,
    values_SF: Array,
    bits_SF: Array,
    first: int,
    values_RK: Array,
    latents_RK: Array,
    edges_RE: Array,
) -> None:
    """values, latents = each row's K largest of h = <W, x> + b, whose bfloat16 have the bits
    `keys_RF`. Computed in full are the K largest after rounding, the least of them being l, and
    every other i whose rounded h' has h' + UNIT |h'| + error >= l; see the module's text."""
    rows, width, n = keys_RF.shape[0], keys_RF.shape[1], values_RK.shape[1]
    for share in prange(SHARES):
        maxima_G = np.empty(ranks.groups_of(width, n), keys_RF.dtype)
        columns_F, found_F = np.empty(width, np.int64), np.empty(width, keys_RF.dtype)
        chosen_F, taken_F = np.empty(width, np.int64), np.zeros(width, np.bool_)
        places_K, keys_F = np.empty(n, np.int64), np.empty(width, np.int64)
        number_1, values_F = np.empty(1, np.float32), values_SF[share]
        bits_1 = number_1.view(np.int32)
        # The memory above is used again for every row of the share.
        for row in range(rows * share // SHARES, rows * (share + 1) // SHARES):
            # With some to spare, which are mostly all that may reach the level.
            reaching, complete = ranks.top_of_row(
                keys_RF[row], maxima_G, columns_F, found_F, places_K, chosen_F, ranks.SPARE
            )
            count, computed, level = n, 0, values_F[0]
            # Twice: the largest after rounding, then what may be larger than one of those.
            for _ in range(2):
                gathers.dot_rows(values_F, x_RD[row], chosen_F, computed, count, W_FD)
                for c in range(computed, count):
                    values_F[c] += b_F[chosen_F[c]]
                if computed > 0:
                    break
                computed, level = n, _level(values_F[:n])
                lowest = level - largest_R[row]
                if lowest != lowest:
                    continue
                key = _key_from(lowest, number_1, bits_1)
                reaching = _all_from(
                    key, complete, reaching, keys_RF[row], maxima_G, columns_F, found_F
                )
                taken_F[chosen_F[:n]] = True
                # Candidates that were not computed yet and may reach the level.
                for c in range(reaching):
                    i = columns_F[c]
                    if found_F[c] < key or taken_F[i]:
                        continue
                    bits_1[0] = np.int32(keys_RF[row, i]) << 16
                    error = lost_F[i] * norm_R[row] + norm_F[i] * lost_R[row] + bias_F[i]
                    if number_1[0] + UNIT * abs(number_1[0]) + error >= level:
                        chosen_F[count] = i
                        count += 1
                taken_F[chosen_F[:n]] = False
            _part_row(
                values_F[:count],
                bits_SF[share, :count],
                chosen_F[:count],
                first,
                (keys_F, places_K),
                values_RK[row],
                latents_RK[row],
                edges_RE[row],
            )


@kernel
def _part_rows(
    values_BC: Array,
    bits_BC: Array,
    columns_BC: Array,
    first: int,
    values_BK: Array,
    latents_BK: Array,
    edges_BE: Array,
) -> None:
    """values, latents, edges = each row's K largest above zero: see `_part_row`."""
    rows, n = values_BK.shape
    for share in prange(SHARES):
        work = np.empty(values_BC.shape[1], np.int64), np.empty(n, np.int64)
        # The memory above is used again for every row of the share.
        for row in range(rows * share // SHARES, rows * (share + 1) // SHARES):
            _part_row(
                values_BC[row],
                bits_BC[row],
                columns_BC[row],
                first,
                work,
                values_BK[row],
                latents_BK[row],
                edges_BE[row],
            )
