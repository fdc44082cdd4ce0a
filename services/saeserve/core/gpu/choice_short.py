"""K3 for rows with few candidates, as nearly all are: one warp a row, its list in registers.

What it computes is said in `choice`. Rows whose candidates do not fit are left to `choose_kernel`.
"""

from __future__ import annotations

import triton
from triton import language as tl

from saeserve.core.gpu.choice_lists import places, reaching, sure_above, surely
from saeserve.core.gpu.keys import keys_of

TILE = 512
"""Columns of a row of weights that a warp multiplies in one go."""
ROW_OF_A_WARP = 1024
"""Longest row of weights that one warp multiplies; longer ones take two."""


def length_of(k: int) -> int:
    """Candidates that fit a program: a quarter more than k, and some."""
    return triton.next_power_of_2(k + k // 4 + 16)


def launch_of(k: int, depth: int) -> dict[str, int]:
    """Lengths of a program's list and of its tiles, and its warps."""
    length = length_of(k)
    warps = max(2 if depth > ROW_OF_A_WARP else 1, min(8, length // 128))
    tile = min(TILE * min(warps, 2), triton.next_power_of_2(depth))
    return {"SHORT": length, "TILE": tile, "num_warps": warps}


@triton.jit
def _computed(
    number: tl.tensor,
    column: tl.tensor,
    undecided: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    depth: int,
    TILE: tl.constexpr,
) -> tl.tensor:
    """The list with its undecided entries in float32, one after the other."""
    rank = tl.cumsum(undecided, 0)
    for turn in range(1, tl.sum(undecided, 0) + 1):
        own = (undecided > 0) & (rank == turn)
        latent = tl.sum(tl.where(own, column, 0), 0).to(tl.int64)
        total = tl.zeros([TILE], tl.float32)
        for start in range(0, depth, TILE):
            at = start + tl.arange(0, TILE)
            weights = tl.load(W + latent * depth + at, mask=at < depth, other=0.0)
            total += weights * tl.load(x + at, mask=at < depth, other=0.0)
        number = tl.where(own, tl.sum(total, 0) + tl.load(b + latent), number)
    return number


@triton.jit
def short_kernel(
    h: tl.tensor,
    errors: tl.tensor,
    hits: tl.tensor,
    counts: tl.tensor,
    cuts: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    list_i: tl.tensor,
    list_v: tl.tensor,
    pending: tl.tensor,
    values: tl.tensor,
    latents: tl.tensor,
    first: int,
    k: int,
    width: int,
    groups: int,
    depth: int,
    unit: float,
    tiny: float,
    EXACT: tl.constexpr,
    ONLY_OPEN: tl.constexpr,
    PARTED: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    CAPACITY: tl.constexpr,
    SHORT: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """A row a program; `pending` says whether it is still to be done."""
    row = tl.program_id(0).to(tl.int64)
    list_i += row * CAPACITY
    list_v += row * CAPACITY
    cut, total, error = tl.load(cuts + row), tl.load(counts + row), tl.load(errors + row)
    filled = 0
    for start in range(0, total, STEP):
        column, number, reach = reaching(
            h, hits, row, start, total, cut, width, groups, WIDTH, STEP
        )
        spot = filled + tl.cumsum(reach, 0) - reach
        fits = (reach > 0) & (spot < SHORT)
        tl.store(list_i + spot, column, mask=fits)
        tl.store(list_v + spot, number, mask=fits)
        filled += tl.sum(reach, 0)
    tl.debug_barrier()
    tl.store(pending + row, (filled > SHORT).to(tl.int32))
    if filled <= SHORT:
        at = tl.arange(0, SHORT)
        here = at < filled
        number = tl.load(list_v + at, mask=here, other=0.0)
        column = tl.load(list_i + at, mask=here, other=0)
        if not EXACT:
            undecided = here
            if ONLY_OPEN:
                level = sure_above(number, here, cut, error, k, unit, tiny)
                undecided = here & (surely(number, level, error, unit, tiny) == 0)
            number = _computed(
                number, column, undecided.to(tl.int32), x + row * depth, W, b, depth, TILE
            )
        keys = tl.where(here, keys_of(number), 0)
        spot, keep, rest = places(keys, at, first, k, PARTED)
        tl.store(values + row * k + spot, number, mask=keep > 0)
        tl.store(latents + row * k + spot, column, mask=keep > 0)
        # Spread over the latents, so that none of them gets many.
        tl.store(values + row * k + at, tl.zeros([SHORT], tl.float32), mask=rest)
        tl.store(latents + row * k + at, ((row * k + at) % width).to(tl.int32), mask=rest)
