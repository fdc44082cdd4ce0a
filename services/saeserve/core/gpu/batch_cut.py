"""K2's second half: of the candidates the n largest, of equals those that come first.

    t = the n-th largest candidate; kept: those above t, and the first of those that equal t

Only what is above zero is kept; not a number counts as the largest. A program takes a row's
candidates, from the list where they have a place there, else computed again one by one.
"""

from __future__ import annotations

import triton
from triton import language as tl

from saeserve.core.gpu import digits
from saeserve.core.gpu.batch_lists import one_entry, one_exact
from saeserve.core.gpu.keys import keys_of


@triton.jit
def list_digits_kernel(
    h: tl.tensor,
    hits: tl.tensor,
    hit_counts: tl.tensor,
    cuts: tl.tensor,
    offsets: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    list_v: tl.tensor,
    found: tl.tensor,
    counts: tl.tensor,
    n: int,
    latents: int,
    groups: int,
    depth: int,
    capacity: int,
    EXACT: tl.constexpr,
    WIDTH: tl.constexpr,
    PASS: tl.constexpr,
    TILE: tl.constexpr,
    MANY: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A pass towards t."""
    row = tl.program_id(0).to(tl.int64)
    prefix = digits.begin(found, counts, n, PASS)
    slot, end = tl.load(offsets + row), tl.load(offsets + row + 1)
    listed = tl.minimum(end, capacity)
    for start in range(slot, listed, BLOCK):
        at = start + tl.arange(0, BLOCK)
        keys = keys_of(tl.load(list_v + at, mask=at < listed, other=0.0))
        digits.count(keys, at < listed, prefix, counts, PASS)
    if end > capacity:
        cut = tl.load(cuts + row)
        for place in range(0, tl.load(hit_counts + row) * WIDTH):
            column, number, taken = one_entry(h, hits, row, place, cut, latents, groups, WIDTH)
            if taken & (slot >= capacity):
                own = one_exact(number, column, x, W, b, row, depth, EXACT, TILE, MANY)
                digit = keys_of(own) >> (24 - 8 * PASS)
                at_digit = counts + 256 * PASS + (digit & 255)
                tl.atomic_add(at_digit, 1, mask=(digit >> 8) == prefix, sem="relaxed")
            slot += taken.to(tl.int64)


@triton.jit
def _level_of(found: tl.tensor, counts: tl.tensor, n: int) -> tl.tensor:
    """The key of t, at least that of the smallest positive number."""
    return tl.maximum(digits.known(found, counts, n, 4)[0].to(tl.int32), 1)


@triton.jit
def tally_kernel(
    h: tl.tensor,
    hits: tl.tensor,
    hit_counts: tl.tensor,
    cuts: tl.tensor,
    offsets: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    list_v: tl.tensor,
    found: tl.tensor,
    counts: tl.tensor,
    tallies: tl.tensor,
    n: int,
    latents: int,
    groups: int,
    depth: int,
    capacity: int,
    EXACT: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    MANY: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """How many of a row's are above t, how many equal it, and the largest key below it."""
    row = tl.program_id(0).to(tl.int64)
    level = _level_of(found, counts, n)
    slot, end = tl.load(offsets + row), tl.load(offsets + row + 1)
    listed = tl.minimum(end, capacity)
    lane = tl.arange(0, BLOCK)
    above = tl.zeros([BLOCK], tl.int32)
    equal = tl.zeros([BLOCK], tl.int32)
    below = tl.zeros([BLOCK], tl.int32)
    for start in range(slot, listed, BLOCK):
        at = start + lane
        keys = keys_of(tl.load(list_v + at, mask=at < listed, other=0.0))
        above += (keys > level).to(tl.int32)
        equal += (keys == level).to(tl.int32)
        below = tl.maximum(below, tl.where(keys < level, keys, 0))
    if end > capacity:
        cut = tl.load(cuts + row)
        for place in range(0, tl.load(hit_counts + row) * WIDTH):
            column, number, taken = one_entry(h, hits, row, place, cut, latents, groups, WIDTH)
            if taken & (slot >= capacity):
                own = one_exact(number, column, x, W, b, row, depth, EXACT, TILE, MANY)
                keys = tl.where(lane == 0, keys_of(own), 0)
                above += (keys > level).to(tl.int32)
                equal += (keys == level).to(tl.int32)
                below = tl.maximum(below, tl.where(keys < level, keys, 0))
            slot += taken.to(tl.int64)
    tl.store(tallies + 3 * row, tl.sum(above, 0))
    tl.store(tallies + 3 * row + 1, tl.sum(equal, 0))
    tl.store(tallies + 3 * row + 2, tl.max(below, 0))


@triton.jit
def plan_kernel(
    found: tl.tensor,
    counts: tl.tensor,
    tallies: tl.tensor,
    quotas: tl.tensor,
    starts: tl.tensor,
    between: tl.tensor,
    n: int,
    rows: int,
    BLOCK: tl.constexpr,
) -> None:
    """Where each row's kept entries begin, how many of its equals are kept, and the level half-way
    between the smallest kept and the largest left; one program."""
    lane = tl.arange(0, BLOCK)
    level = _level_of(found, counts, n)
    above = tl.zeros([BLOCK], tl.int64)
    equal = tl.zeros([BLOCK], tl.int64)
    below = tl.zeros([BLOCK], tl.int32)
    for start in range(0, rows, BLOCK):
        at = 3 * (start + lane).to(tl.int64)
        here = start + lane < rows
        above += tl.load(tallies + at, mask=here, other=0).to(tl.int64)
        equal += tl.load(tallies + at + 1, mask=here, other=0).to(tl.int64)
        below = tl.maximum(below, tl.load(tallies + at + 2, mask=here, other=0))
    spare = n - tl.sum(above, 0)
    ties = tl.sum(equal, 0)
    left = tl.where(ties > spare, level, tl.max(below, 0)).to(tl.float32, bitcast=True)
    smallest = level.to(tl.float32, bitcast=True)
    # Fewer than n are above zero: then all of them are kept, and nothing is between.
    tl.store(between, tl.where(ties < spare, 0.0, (smallest + left) / 2))
    before = tl.zeros([1], tl.int64)
    filled = tl.zeros([1], tl.int64)
    for start in range(0, rows, BLOCK):
        at = 3 * (start + lane).to(tl.int64)
        here = start + lane < rows
        own = tl.load(tallies + at + 1, mask=here, other=0).to(tl.int64)
        earlier = before + tl.cumsum(own, 0) - own
        quota = tl.minimum(tl.maximum(spare - earlier, 0), own)
        kept = tl.load(tallies + at, mask=here, other=0).to(tl.int64) + quota
        begin = filled + tl.cumsum(kept, 0) - kept
        tl.store(quotas + start + lane, quota.to(tl.int32), mask=here)
        tl.store(starts + start + lane, begin.to(tl.int32), mask=here)
        before += tl.sum(own, 0)
        filled += tl.sum(kept, 0)
    tl.store(starts + rows + tl.arange(0, 1), filled.to(tl.int32))


@triton.jit
def keep_kernel(
    h: tl.tensor,
    hits: tl.tensor,
    hit_counts: tl.tensor,
    cuts: tl.tensor,
    offsets: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    list_i: tl.tensor,
    list_v: tl.tensor,
    found: tl.tensor,
    counts: tl.tensor,
    quotas: tl.tensor,
    starts: tl.tensor,
    values: tl.tensor,
    kept_latents: tl.tensor,
    n: int,
    rows: int,
    latents: int,
    groups: int,
    depth: int,
    capacity: int,
    EXACT: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    MANY: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The kept entries; programs from `rows` on fill the places after them."""
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    if program < rows:
        row = program.to(tl.int64)
        level, quota = _level_of(found, counts, n), tl.load(quotas + row)
        filled = tl.load(starts + row)
        tied = 0
        slot, end = tl.load(offsets + row), tl.load(offsets + row + 1)
        listed = tl.minimum(end, capacity)
        for start in range(slot, listed, BLOCK):
            at = start + lane
            number = tl.load(list_v + at, mask=at < listed, other=0.0)
            column = tl.load(list_i + at, mask=at < listed, other=0)
            keys = keys_of(number)
            equal = (keys == level).to(tl.int32)
            chosen = (equal > 0) & (tied + tl.cumsum(equal, 0) <= quota)
            keep = ((keys > level) | chosen).to(tl.int32)
            spot = filled + tl.cumsum(keep, 0) - keep
            tl.store(values + spot, number, mask=keep > 0)
            tl.store(kept_latents + spot, column, mask=keep > 0)
            filled += tl.sum(keep, 0)
            tied += tl.sum(equal, 0)
        if end > capacity:
            cut = tl.load(cuts + row)
            for place in range(0, tl.load(hit_counts + row) * WIDTH):
                column, number, taken = one_entry(h, hits, row, place, cut, latents, groups, WIDTH)
                if taken & (slot >= capacity):
                    own = one_exact(number, column, x, W, b, row, depth, EXACT, TILE, MANY)
                    key = keys_of(own)
                    keep_one = (key > level) | ((key == level) & (tied < quota))
                    tl.store(values + filled, own, mask=keep_one)
                    tl.store(kept_latents + filled, column, mask=keep_one)
                    filled += keep_one.to(tl.int32)
                    tied += (key == level).to(tl.int32)
                slot += taken.to(tl.int64)
    else:
        at = (program - rows) * BLOCK + lane
        rest = (at < n) & (at >= tl.load(starts + rows))
        tl.store(values + at, tl.zeros([BLOCK], tl.float32), mask=rest)
        # Spread over the latents, so that none of them gets many.
        tl.store(kept_latents + at, at % latents, mask=rest)
