"""The entries that a step works with, and TopK's choice of them.

Shape suffixes: B rows, C candidates of a row, N entries, F d_sae, D d_in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saeserve.core.ops.compiled import Array, array, helper, kernel, prange
from saeserve.core.ops.fast import gathers, ranks
from saeserve.core.ops.fast.encoder import Encoder

SPARE_CANDIDATES = 16
"""Taken beyond n in low precision, so that the exact top n is among the candidates."""
_SHARES = 64
_KEYS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


@dataclass(frozen=True)
class Entries:
    """Active latents: those of row b and group g stand at edges[b, g] .. edges[b, g + 1].

    A reconstruction with the first g groups is a prefix; values are positive (or NaN: a
    divergence is shown, never hidden). What stands between the rows' ranges is not defined.
    """

    values_N: Tensor
    latents_N: Tensor
    edges_BE: Tensor

    @property
    def groups(self) -> int:
        """Number of groups of a row."""
        return self.edges_BE.shape[1] - 1


def as_bits(numbers: Tensor) -> Tensor:
    """The memory of floating-point numbers as integers of their bits."""
    return numbers.view(_KEYS.get(numbers.dtype, torch.int64))


def bits(numbers: Tensor) -> Array:
    """The same as an array."""
    return array(as_bits(numbers))


def top(encoder: Encoder, sizes: tuple[int, ...]) -> Entries:
    """The n largest pre-activations of each row above zero, n = sizes[-1]; of groups, the first
    has the largest sizes[0].

    After a low-precision GEMM, n + SPARE_CANDIDATES are computed again in the parameters' type.
    """
    rows, latents = encoder.x_BD.shape[0], encoder.W_FD.shape[0]
    n = min(sizes[-1], latents)
    spare = 0 if encoder.exact else SPARE_CANDIDATES
    columns_BC = torch.empty(rows, min(n + spare, latents), dtype=torch.int64)
    values_BC = encoder.x_BD.new_empty(columns_BC.shape)
    for start, h_RF in encoder.blocks():
        block = slice(start, start + h_RF.shape[0])
        ranks.top_columns(bits(h_RF), array(columns_BC[block]))
        if encoder.exact:
            torch.gather(h_RF, 1, columns_BC[block], out=values_BC[block])
    if not encoder.exact:
        values_BC = recomputed(encoder, columns_BC)
    values_BK, latents_BK = values_BC.new_empty(rows, n), columns_BC.new_empty(rows, n)
    edges_BE = columns_BC.new_empty(rows, len(sizes) + 1)
    _part_rows(
        *(array(values_BC), bits(values_BC), array(columns_BC), min(sizes[0], n)),
        *(array(values_BK), array(latents_BK), array(edges_BE)),
    )
    return Entries(values_BK.view(-1), latents_BK.view(-1), edges_BE)


def recomputed(encoder: Encoder, columns_BC: Tensor) -> Tensor:
    """Pre-activations [B, C] at the given columns in the parameters' type."""
    rows, candidates = columns_BC.shape
    flat_N = columns_BC.view(-1)
    values_N = encoder.x_BD.new_empty(flat_N.shape)
    offsets = torch.arange(0, flat_N.numel() + 1, candidates)
    gathers.dot_bags(
        *(array(encoder.x_BD), array(flat_N), array(offsets), array(encoder.W_FD), array(values_N))
    )
    return values_N.add_(encoder.b_F[flat_N]).view(rows, candidates)


@helper
def _order_row(values_C: Array, bits_C: Array, keys_C: Array) -> None:
    """Keys that are ordered as the values; NaN of either sign is the largest."""
    sign = bits_C.itemsize * 8 - 1
    for c in range(values_C.shape[0]):
        keys_C[c] = ranks.ordered(np.int64(bits_C[c]), sign)
        if values_C[c] != values_C[c]:
            keys_C[c] = np.iinfo(np.int64).max


@helper
def _copy_above_zero(
    places_K: Array,
    values_C: Array,
    columns_C: Array,
    values_K: Array,
    latents_K: Array,
    filled: int,
) -> int:
    for place in places_K:
        if not values_C[place] <= 0:
            values_K[filled], latents_K[filled] = values_C[place], columns_C[place]
            filled += 1
    return filled


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
    """Each row's K largest above zero: the largest `first` of them, then the rest."""
    rows, candidates, n = values_BC.shape[0], values_BC.shape[1], values_BK.shape[1]
    for share in prange(_SHARES):
        keys_C, places_K = np.empty(candidates, np.int64), np.empty(n, np.int64)
        inner_I, rest = np.empty(first, np.int64), np.empty(n, np.bool_)
        for row in range(rows * share // _SHARES, rows * (share + 1) // _SHARES):
            _order_row(values_BC[row], bits_BC[row], keys_C)
            ranks.keep(columns_BC[row], keys_C, places_K)
            ranks.keep(columns_BC[row][places_K], keys_C[places_K], inner_I)
            rest[:] = True
            rest[inner_I] = False
            edges_BE[row, 0] = row * n
            filled = 0
            filled = _copy_above_zero(
                *(places_K[inner_I], values_BC[row], columns_BC[row]),
                *(values_BK[row], latents_BK[row], filled),
            )
            edges_BE[row, 1] = row * n + filled
            if edges_BE.shape[1] > 2:
                filled = _copy_above_zero(
                    *(places_K[rest], values_BC[row], columns_BC[row]),
                    *(values_BK[row], latents_BK[row], filled),
                )
                edges_BE[row, 2] = row * n + filled
