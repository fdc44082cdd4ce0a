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
def _bring_forward(columns_C: Array, keys_C: Array, places_K: Array, first: int) -> None:
    """Reorder the places, so that the largest `first` stand first."""
    inner, front = np.empty(first, np.int64), np.zeros(places_K.shape[0], np.bool_)
    ranks.keep(columns_C[places_K], keys_C[places_K], inner)
    front[inner] = True
    places_K[:] = np.concatenate((places_K[front], places_K[~front]))


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
    rows, n = values_BK.shape
    for share in prange(_SHARES):
        keys_C, places_K = np.empty(values_BC.shape[1], np.int64), np.empty(n, np.int64)
        for row in range(rows * share // _SHARES, rows * (share + 1) // _SHARES):
            _order_row(values_BC[row], bits_BC[row], keys_C)
            ranks.keep(columns_BC[row], keys_C, places_K)
            if first < n:
                _bring_forward(columns_BC[row], keys_C, places_K, first)
            edges_BE[row, :] = row * n
            for k in range(n):
                value, place = values_BC[row, places_K[k]], edges_BE[row, -1]
                if not value <= 0:
                    values_BK[row, place - row * n] = value
                    latents_BK[row, place - row * n] = columns_BC[row, places_K[k]]
                    edges_BE[row, -1] += 1
                    edges_BE[row, 1] += k < first and edges_BE.shape[1] > 2
