"""The n largest of each row, exact, ties to the lower column; values compared by their bits.

As signed integers, the bits of floating-point numbers from +0 on are ordered as the numbers are,
and stand above those of all negative ones; NaN with a positive sign is the largest. A row is read
once: its columns fall into groups, and the n-th largest of the groups' maxima is a level that at
least n entries reach; only the groups that reach it are read again. Groups are strided, so that
neighbours, which may be active together, fall into different ones, and so that maxima are taken
in vectors. Shape suffixes: R rows, F columns, C chosen, G groups.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saeserve.core.kernels.compiled import SHARES, Array, array, helper, kernel, prange

_KEYS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
SPARE = 16
"""Candidates beyond those that are aimed at, so that small numbers of them suffice as well."""
_NEVER = np.iinfo(np.int64).max
"""A level that no key reaches."""
_MEMBERS = 16
"""Columns of a group in wide rows; fewer where n is large, for there are 4 n groups or more."""


def as_bits(numbers: Tensor) -> Tensor:
    """The memory of floating-point numbers as integers of their bits."""
    return numbers.view(_KEYS.get(numbers.dtype, torch.int64))


def bits(numbers: Tensor) -> Array:
    """The same as an array."""
    return array(as_bits(numbers))


def keys_from(lowest_R: Tensor, dtype: torch.dtype) -> Tensor:
    """For each row the key that numbers of `dtype` from `lowest_R` on reach, ordered below zero as
    well (see `ordered`); of the smallest positive number where that is 0, and one that none
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
def level_of(keys_M: Array, n: int) -> np.int64:
    """The n-th largest of at least n integers, by bisection."""
    low, high = keys_M[0], keys_M[0]
    for m in range(1, keys_M.shape[0]):
        low, high = min(low, keys_M[m]), max(high, keys_M[m])
    below, above = np.int64(low), np.int64(high)
    # `below` is always reached by n keys, `above` + 1 never.
    while below < above:
        # Their mean, rounded up, without overflow; in the keys' type, to compare in vectors.
        middle = (below | above) - ((below ^ above) >> 1)
        level = keys_M.dtype.type(middle)
        found = 0
        for m in range(keys_M.shape[0]):
            found += keys_M[m] >= level
        if found >= n:
            below = middle
        else:
            above = middle - 1
    return below


@helper
def raise_to(maxima_G: Array, keys_G: Array) -> None:
    """maxima = max(maxima, keys)."""
    for g in range(maxima_G.shape[0]):
        maxima_G[g] = max(maxima_G[g], keys_G[g])


@helper
def group_maxima(keys_F: Array, maxima_G: Array) -> None:
    """The largest key of each group: group g has the columns g, g + G, g + 2 G, ..."""
    groups, width = maxima_G.shape[0], keys_F.shape[0]
    maxima_G[:] = keys_F[:groups]
    for first in range(groups, width, groups):
        raise_to(maxima_G[: min(groups, width - first)], keys_F[first:])


@helper
def collect(
    keys_F: Array, maxima_G: Array, level: np.int64, columns_F: Array, found_F: Array
) -> int:
    """Columns and keys of the entries that reach `level`; returns their number."""
    count, bound = 0, keys_F.dtype.type(level)
    # Every column of a group is written, and only those that reach the level advance.
    for group in range(maxima_G.shape[0]):
        if maxima_G[group] >= bound:
            for column in range(group, keys_F.shape[0], maxima_G.shape[0]):
                key = keys_F[column]
                columns_F[count] = column
                found_F[count] = key
                count += key >= bound
    return count


@helper
def ordered(bits: np.int64, sign: int) -> np.int64:
    """An integer that is ordered as the number of these bits, below zero as well; `sign` is the
    place of the sign."""
    return bits ^ ((bits >> sign) & ((np.int64(1) << sign) - 1))


@helper
def everything(keys_F: Array, columns_F: Array, found_F: Array) -> int:
    """All columns, with keys that are ordered below zero as well."""
    sign = keys_F.itemsize * 8 - 1
    for column in range(keys_F.shape[0]):
        columns_F[column] = column
        found_F[column] = ordered(np.int64(keys_F[column]), sign)
    return keys_F.shape[0]


@helper
def keep(columns_M: Array, keys_M: Array, places_C: Array) -> None:
    """Places of the C largest of at least C keys; of those that equal the last, the first columns
    are taken."""
    n = places_C.shape[0]
    level = level_of(keys_M, n)
    kept = 0
    for m in range(keys_M.shape[0]):
        if keys_M[m] > level:
            places_C[kept] = m
            kept += 1
    last = np.int64(-1)
    # Equals of the last one, in ascending order of their column.
    while kept < n:
        first = np.int64(-1)
        for m in range(keys_M.shape[0]):
            tied = keys_M[m] == level and columns_M[m] > last
            if tied and (first < 0 or columns_M[m] < columns_M[first]):
                first = m
        places_C[kept] = first
        last = columns_M[first]
        kept += 1


@helper
def groups_of(width: int, n: int) -> int:
    """Into how many groups a row falls whose n largest are wanted."""
    return min(width, max(4 * n, width // _MEMBERS))


@helper
def top_of_row(
    keys_F: Array,
    maxima_G: Array,
    columns_F: Array,
    found_F: Array,
    places_C: Array,
    chosen_C: Array,
    spare: int,
) -> tuple[int, np.int64]:
    """Columns of a row's C largest; the other arrays are for the work, `maxima_G` holds the
    groups' largest keys then.

    Returns how many entries `columns_F` and `found_F` hold, and a level: they are all that reach
    it. `spare` entries more than C are collected, as far as positive ones are there.
    """
    group_maxima(keys_F, maxima_G)
    n = places_C.shape[0]
    level = level_of(maxima_G, min(n + spare, maxima_G.shape[0]))
    if level < 0 and spare > 0:
        level = level_of(maxima_G, n)
    if level >= 0:
        count = collect(keys_F, maxima_G, level, columns_F, found_F)
    else:
        count, level = everything(keys_F, columns_F, found_F), np.int64(_NEVER)
    keep(columns_F[:count], found_F[:count], places_C)
    for c in range(n):
        chosen_C[c] = columns_F[places_C[c]]
    return count, level


@kernel
def top_columns(keys_RF: Array, chosen_RC: Array) -> None:
    """chosen[r] = the columns of each row's C largest, in no order; keys are its numbers' bits."""
    rows, width, n = keys_RF.shape[0], keys_RF.shape[1], chosen_RC.shape[1]
    for share in prange(SHARES):
        maxima_G, places_C = np.empty(groups_of(width, n), keys_RF.dtype), np.empty(n, np.int64)
        columns_F, found_F = np.empty(width, np.int64), np.empty(width, keys_RF.dtype)
        # The memory above is used again for every row of the share.
        for row in range(rows * share // SHARES, rows * (share + 1) // SHARES):
            top_of_row(keys_RF[row], maxima_G, columns_F, found_F, places_C, chosen_RC[row], 0)
