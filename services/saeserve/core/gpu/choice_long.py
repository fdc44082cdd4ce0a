"""K3 for rows of many candidates: a list in memory, which is cut to its k largest when it is full.

What it computes is said in `choice`.
"""

from __future__ import annotations

import triton
from triton import language as tl

from saeserve.core.gpu.choice_lists import compute, places, reaching, shrunk
from saeserve.core.gpu.keys import keys_of

ROWS = 32
"""Rows whose flags a program looks at; nearly all are done already."""
WARPS = 16
"""Fewer have too few registers for a list of 1,024."""


@triton.jit
def choose_kernel(
    pending: tl.tensor,
    h: tl.tensor,
    hits: tl.tensor,
    counts: tl.tensor,
    cuts: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    list_i: tl.tensor,
    list_v: tl.tensor,
    values: tl.tensor,
    latents: tl.tensor,
    first: int,
    k: int,
    width: int,
    groups: int,
    depth: int,
    rows: int,
    EXACT: tl.constexpr,
    PARTED: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """Some rows a program, of which those that are still to be done are done one after the other;
    a row's list may be full several times."""
    mine = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    waiting = tl.load(pending + mine, mask=mine < rows, other=0)
    turns = tl.cumsum(waiting, 0)
    at = tl.arange(0, CAPACITY)
    column_of_x = tl.arange(0, BLOCK)
    # A row that is still to be done in each turn.
    for turn in range(1, tl.sum(waiting, 0) + 1):
        now = (waiting > 0) & (turns == turn)
        row = tl.sum(tl.where(now, mine, 0), 0).to(tl.int64)
        own_i, own_v = list_i + row * CAPACITY, list_v + row * CAPACITY
        own = tl.zeros([BLOCK], tl.float32)
        if not EXACT:
            own = tl.load(x + row * depth + column_of_x, mask=column_of_x < depth, other=0.0)
        cut, total = tl.load(cuts + row), tl.load(counts + row)
        filled = 0
        known = 0
        # Some of the groups that reach the cut at a time.
        for start in range(0, total, STEP):
            column, number, reach = reaching(
                h, hits, row, start, total, cut, width, groups, WIDTH, STEP
            )
            many = tl.sum(reach, 0)
            if filled + many > CAPACITY:
                if not EXACT:
                    compute(own_i, own_v, known, filled, own, W, b, depth, BLOCK)
                filled = shrunk(own_i, own_v, at, filled, k)
                known = filled
            spot = filled + tl.cumsum(reach, 0) - reach
            tl.store(own_i + spot, column, mask=reach > 0)
            tl.store(own_v + spot, number, mask=reach > 0)
            tl.debug_barrier()
            filled += many
        if not EXACT:
            compute(own_i, own_v, known, filled, own, W, b, depth, BLOCK)
        number = tl.load(own_v + at, mask=at < filled, other=0.0)
        column = tl.load(own_i + at, mask=at < filled, other=0)
        keys = tl.where(at < filled, keys_of(number), 0)
        spot, keep, rest = places(keys, at, first, k, PARTED)
        tl.store(values + row * k + spot, number, mask=keep > 0)
        tl.store(latents + row * k + spot, column, mask=keep > 0)
        # Spread over the latents, so that none of them gets many.
        tl.store(values + row * k + at, tl.zeros([CAPACITY], tl.float32), mask=rest)
        tl.store(latents + row * k + at, ((row * k + at) % width).to(tl.int32), mask=rest)
