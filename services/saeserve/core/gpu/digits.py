"""The n-th largest of many keys, found digit by digit, for kernels that each see some of the keys.

Keys are int32 from 0 on, ordered as the numbers they stand for. A pass counts, of all keys that
begin with the digits known so far, which digit comes next: 256 counts. The next pass's programs
read from them what that digit is. Four passes, the highest byte first. Counts are integers and
added by atomic operations: their sum does not depend on the order.

Memory: `counts` int64 [4, 256], zero at first; `found` int64 [4, 2].
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton import language as tl

PASSES = 4


def memory(like: Tensor) -> tuple[Tensor, Tensor]:
    """`found` and `counts` of one search."""
    found = like.new_empty(PASSES, 2, dtype=torch.int64)
    return found, found.new_zeros(PASSES, 256)


def warps_of(block: int) -> int:
    """Warps of a program that counts so many keys at once: each thread has one of its own, lest
    keys be counted twice."""
    return max(1, min(4, block // 32))


@triton.jit
def known(
    found: tl.tensor, counts: tl.tensor, n: int, PASS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Before a pass: the digits known by then, as a number, and how many of the n largest begin
    with them. After the last one: the key. Where there are fewer than n keys it is 0."""
    prefix = tl.zeros([], tl.int64)
    wanted = tl.zeros([], tl.int64) + n
    if PASS > 0:
        prefix += tl.load(found + 2 * (PASS - 1))
        wanted = tl.load(found + 2 * (PASS - 1) + 1)
        digits = tl.arange(0, 256)
        own = tl.load(counts + 256 * (PASS - 1) + digits)
        reached = tl.sum(own, 0) - tl.cumsum(own, 0) + own
        digit = tl.max(tl.where(reached >= wanted, digits, 0), 0)
        wanted -= tl.sum(tl.where(digits > digit, own, 0), 0)
        prefix = prefix * 256 + digit
    return prefix, wanted


@triton.jit
def begin(found: tl.tensor, counts: tl.tensor, n: int, PASS: tl.constexpr) -> tl.tensor:
    """The digits known before a pass; the first program notes them for the next one."""
    prefix, wanted = known(found, counts, n, PASS)
    if tl.program_id(0) == 0:
        tl.store(found + 2 * PASS, prefix)
        tl.store(found + 2 * PASS + 1, wanted)
    return prefix


@triton.jit
def count(
    keys: tl.tensor, here: tl.tensor, prefix: tl.tensor, counts: tl.tensor, PASS: tl.constexpr
) -> None:
    """Count the next digits of a block of keys."""
    digits = keys >> (24 - 8 * PASS)
    own = tl.histogram(digits & 255, 256, mask=here & ((digits >> 8) == prefix))
    at = counts + 256 * PASS + tl.arange(0, 256)
    tl.atomic_add(at, own.to(tl.int64), mask=own > 0, sem="relaxed")
