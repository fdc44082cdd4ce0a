"""Numbers as integers of the same order, and the largest of a block of them: parts of kernels."""

from __future__ import annotations

import triton
from triton import language as tl


@triton.jit
def keys_of(values: tl.tensor) -> tl.tensor:
    """Integers that are ordered as positive numbers are; not a number is the largest, all others
    are 0."""
    bits = values.to(tl.int32, bitcast=True)
    return tl.where(values != values, 0x7FC00000, tl.maximum(bits, 0))


@triton.jit
def nth_largest(keys: tl.tensor, n: int) -> tl.tensor:
    """The largest key that n of them reach; 0 where fewer than n are above 0."""
    low, high = 0, 0x7FC00001
    for _ in range(31):
        middle = low + (high - low) // 2
        reached = tl.sum((keys >= middle).to(tl.int32), 0) >= n
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    return low


@triton.jit
def largest_of(keys: tl.tensor, k: int) -> tl.tensor:
    """Which are the k largest, of those above 0; of equals the first."""
    level = tl.maximum(nth_largest(keys, k), 1)
    above = (keys > level).to(tl.int32)
    equal = (keys == level).to(tl.int32)
    return above + equal * (tl.cumsum(equal, 0) <= k - tl.sum(above, 0)).to(tl.int32)


@triton.jit
def group_maxima(
    h: tl.tensor,
    maxima: tl.tensor,
    row: tl.tensor,
    latents: int,
    groups: int,
    WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Write the largest key of each group of a row's columns."""
    inside = tl.arange(0, WIDTH)
    for start in range(0, groups, AT_ONCE):
        group = start + tl.arange(0, AT_ONCE)
        column = group[:, None] * WIDTH + inside[None, :]
        values = tl.load(h + row * latents + column, mask=column < latents, other=float("-inf"))
        best = tl.max(keys_of(values.to(tl.float32)), 1)
        tl.store(maxima + row * groups + group, best, mask=group < groups)
