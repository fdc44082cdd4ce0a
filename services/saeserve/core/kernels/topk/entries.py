"""The entries that a step works with, and the last part of TopK's choice of them.

Shape suffixes: B rows, C candidates of a row, K chosen, N entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saeserve.core.kernels import ranks
from saeserve.core.kernels.compiled import Array, array, helper, kernel, prange

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


def keys_from(lowest_R: Tensor, dtype: torch.dtype) -> Tensor:
    """For each row the key that numbers of `dtype` from `lowest_R` on reach, ordered below zero as
    well (see `ranks.ordered`); of the smallest positive number where that is 0, and one that none
    reaches where it is NaN."""
    if dtype == torch.bfloat16:
        bits_R = as_bits(lowest_R.float()).long()
        # Shifted to the upper half, which rounds down, whatever the sign.
        keys_R = torch.where(bits_R < 0, bits_R ^ 0x7FFFFFFF, bits_R) >> 16
    else:
        keys_R = as_bits(lowest_R.to(dtype)).long()
    keys_R = torch.where(lowest_R == 0, 1, keys_R)
    return torch.where(lowest_R.isnan(), torch.iinfo(as_bits(lowest_R).dtype).max, keys_R)


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
def part_row(
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
def part_rows(
    values_BC: Array,
    bits_BC: Array,
    columns_BC: Array,
    first: int,
    values_BK: Array,
    latents_BK: Array,
    edges_BE: Array,
) -> None:
    """Each row's K largest above zero: see `part_row`."""
    rows, n = values_BK.shape
    for share in prange(_SHARES):
        work = np.empty(values_BC.shape[1], np.int64), np.empty(n, np.int64)
        for row in range(rows * share // _SHARES, rows * (share + 1) // _SHARES):
            part_row(
                values_BC[row],
                bits_BC[row],
                columns_BC[row],
                first,
                work,
                values_BK[row],
                latents_BK[row],
                edges_BE[row],
            )
