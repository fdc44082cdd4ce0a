"""K2's first half: the entries of a micro-batch that may be among its n + 1 largest, as a list.

    l_bg = max of a group of columns in row b, less its rounding and E_b: what the largest exact
           entry of the group is at least
    T = the (n + 1)-th largest l_bg, which n + 1 entries reach, for groups do not overlap
    candidates: h + rounding + E_b >= T

The list has them in order of row and latent, with their values in float32. It has room for a number
that the host knows; candidates for which there is none have a slot number, but no place. So the
choice is right for any number of candidates, and slow for many: whoever needs a value without a
place computes it again (`one_exact`).
"""

from __future__ import annotations

import triton
from triton import language as tl

from saeserve.core.gpu import digits
from saeserve.core.gpu.choice_lists import reaching
from saeserve.core.gpu.keys import group_maxima


@triton.jit
def maxima_kernel(
    h: tl.tensor,
    maxima: tl.tensor,
    latents: int,
    groups: int,
    WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """The largest key of each group of columns; a row a program."""
    row = tl.program_id(0).to(tl.int64)
    group_maxima(h, maxima, row, latents, groups, WIDTH, AT_ONCE)


@triton.jit
def group_digits_kernel(
    maxima: tl.tensor,
    errors: tl.tensor,
    found: tl.tensor,
    counts: tl.tensor,
    n: int,
    groups: int,
    unit: float,
    tiny: float,
    largest: float,
    PASS: tl.constexpr,
    GROUPS: tl.constexpr,
) -> None:
    """A pass towards T; a row a program."""
    row = tl.program_id(0).to(tl.int64)
    prefix = digits.begin(found, counts, n, PASS)
    at = tl.arange(0, GROUPS)
    best = tl.load(maxima + row * groups + at, mask=at < groups, other=0)
    # Not a number says nothing about sizes, and infinity may be a number that did not fit.
    number = tl.where(best > 0x7F800000, 0, best).to(tl.float32, bitcast=True)
    number = tl.minimum(number, largest)
    # The last term is for what computing this has rounded.
    least = number - (unit * number + tiny) - tl.load(errors + row) - 1e-6 * number
    # Asked this way round, nothing is known where the bound on errors is not a number.
    keys = tl.where(least > 0.0, least, 0.0).to(tl.int32, bitcast=True)
    digits.count(keys, at < groups, prefix, counts, PASS)


@triton.jit
def hits_kernel(
    h: tl.tensor,
    errors: tl.tensor,
    maxima: tl.tensor,
    found: tl.tensor,
    counts: tl.tensor,
    hits: tl.tensor,
    hit_counts: tl.tensor,
    cuts: tl.tensor,
    many: tl.tensor,
    n: int,
    latents: int,
    groups: int,
    unit: float,
    tiny: float,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    GROUPS: tl.constexpr,
) -> None:
    """The cut of a row, the groups that reach it, and how many entries do; a row a program."""
    row = tl.program_id(0).to(tl.int64)
    level = digits.known(found, counts, n, 4)[0].to(tl.int32).to(tl.float32, bitcast=True)
    error = tl.load(errors + row)
    # The last terms are for what computing this has rounded.
    least = level - error - tiny - 1e-6 * (level + error)
    cut = least / tl.where(least > 0.0, 1.0 + unit, 1.0 - unit)
    cut -= tl.abs(cut) * 1e-6
    at = tl.arange(0, GROUPS)
    best = tl.load(maxima + row * groups + at, mask=at < groups, other=0)
    number = best.to(tl.float32, bitcast=True)
    hit = (((number >= cut) | (number != number)) & (at < groups)).to(tl.int32)
    tl.store(hits + row * groups + tl.cumsum(hit, 0) - hit, at, mask=hit > 0)
    total = tl.sum(hit, 0)
    tl.store(hit_counts + row, total)
    tl.store(cuts + row, cut)
    tl.debug_barrier()
    reached = 0
    for start in range(0, total, STEP):
        _, _, reach = reaching(h, hits, row, start, total, cut, latents, groups, WIDTH, STEP)
        reached += tl.sum(reach, 0)
    tl.store(many + row, reached)


@triton.jit
def exact(
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    row: tl.tensor,
    latent: tl.tensor,
    here: tl.tensor,
    depth: int,
    TILE: tl.constexpr,
    MANY: tl.constexpr,
) -> tl.tensor:
    """<W, x> + b in float32 of some latents of a row."""
    total = tl.zeros([MANY, TILE], tl.float32)
    for start in range(0, depth, TILE):
        column = start + tl.arange(0, TILE)
        own = tl.load(x + row * depth + column, mask=column < depth, other=0.0)
        part = tl.load(
            W + latent[:, None] * depth + column[None, :],
            mask=here[:, None] & (column < depth)[None, :],
            other=0.0,
        )
        total += part * own[None, :]
    return tl.sum(total, 1) + tl.load(b + latent, mask=here, other=0.0)


@triton.jit
def collect_kernel(
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
    latents: int,
    groups: int,
    depth: int,
    capacity: int,
    EXACT: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    TILE: tl.constexpr,
    MANY: tl.constexpr,
) -> None:
    """A row's candidates, as far as there is room; a row a program."""
    row = tl.program_id(0).to(tl.int64)
    cut, total = tl.load(cuts + row), tl.load(hit_counts + row)
    slot = tl.load(offsets + row)
    for start in range(0, total, STEP):
        column, number, reach = reaching(
            h, hits, row, start, total, cut, latents, groups, WIDTH, STEP
        )
        spot = slot + tl.cumsum(reach, 0) - reach
        room = (reach > 0) & (spot < capacity)
        tl.store(list_i + spot, column, mask=room)
        tl.store(list_v + spot, number, mask=room)
        slot += tl.sum(reach, 0)
    if not EXACT:
        tl.debug_barrier()
        end = tl.minimum(slot, capacity)
        for first in range(tl.load(offsets + row), end, MANY):
            at = first + tl.arange(0, MANY)
            latent = tl.load(list_i + at, mask=at < end, other=0).to(tl.int64)
            own = exact(x, W, b, row, latent, at < end, depth, TILE, MANY)
            tl.store(list_v + at, own, mask=at < end)


@triton.jit
def one_entry(
    h: tl.tensor,
    hits: tl.tensor,
    row: tl.tensor,
    place: int,
    cut: tl.tensor,
    latents: int,
    groups: int,
    WIDTH: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Column and entry at a place of a row's groups, and whether it is a candidate."""
    column = tl.load(hits + row * groups + place // WIDTH) * WIDTH + place % WIDTH
    here = column < latents
    at = h + row * latents + column
    number = tl.load(at, mask=here, other=float("-inf")).to(tl.float32)
    return column, number, ((number >= cut) | (number != number)) & here


@triton.jit
def one_exact(
    number: tl.tensor,
    column: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    row: tl.tensor,
    depth: int,
    EXACT: tl.constexpr,
    TILE: tl.constexpr,
    MANY: tl.constexpr,
) -> tl.tensor:
    """An entry in float32, the same bits as in the list."""
    if not EXACT:
        lane = tl.arange(0, MANY)
        latent = tl.zeros([MANY], tl.int64) + column
        own = exact(x, W, b, row, latent, lane == 0, depth, TILE, MANY)
        number = tl.sum(tl.where(lane == 0, own, 0.0), 0)
    return number
