"""K1, and parts of K2 and K3: groups that reach the cut, and lists of candidates from them.

What they are for is said in `choice`.
"""

from __future__ import annotations

import triton
from triton import language as tl

from saeserve.core.gpu.keys import group_maxima, keys_of, largest_of, nth_largest


@triton.jit
def groups_kernel(
    h: tl.tensor,
    errors: tl.tensor,
    maxima: tl.tensor,
    hits: tl.tensor,
    counts: tl.tensor,
    cuts: tl.tensor,
    k: int,
    latents: int,
    groups: int,
    unit: float,
    tiny: float,
    largest: float,
    WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
    GROUPS: tl.constexpr,
) -> None:
    """K1, a row a program: the cut, and the groups of columns that reach it."""
    row = tl.program_id(0).to(tl.int64)
    group_maxima(h, maxima, row, latents, groups, WIDTH, AT_ONCE)
    tl.debug_barrier()
    at = tl.arange(0, GROUPS)
    best = tl.load(maxima + row * groups + at, mask=at < groups, other=0)
    # Not a number says nothing about sizes, and infinity may be a number that did not fit.
    level = nth_largest(tl.where(best > 0x7F800000, 0, best), k).to(tl.float32, bitcast=True)
    level = tl.minimum(level, largest)
    error = tl.load(errors + row)
    least = tl.maximum(level - (unit * level + tiny) - error, 0.0) - error - tiny
    cut = least / tl.where(least > 0.0, 1.0 + unit, 1.0 - unit)
    # What computing the cut itself has rounded.
    cut -= tl.abs(cut) * 1e-6
    number = best.to(tl.float32, bitcast=True)
    hit = (((number >= cut) | (number != number)) & (at < groups)).to(tl.int32)
    place = tl.cumsum(hit, 0) - hit
    tl.store(hits + row * groups + place, at, mask=hit > 0)
    tl.store(counts + row, tl.sum(hit, 0))
    tl.store(cuts + row, cut)


@triton.jit
def reaching(
    h: tl.tensor,
    hits: tl.tensor,
    row: tl.tensor,
    start: int,
    total: int,
    cut: tl.tensor,
    latents: int,
    groups: int,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Columns and entries of some of a row's groups, in order, and which of them reach the cut."""
    step = start + tl.arange(0, STEP)
    group = tl.load(hits + row * groups + step, mask=step < total, other=0)
    column = group[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    here = (step < total)[:, None] & (column < latents)
    number = tl.load(h + row * latents + column, mask=here, other=float("-inf")).to(tl.float32)
    reach = (((number >= cut) | (number != number)) & here).to(tl.int32)
    column = tl.reshape(column, [STEP * WIDTH])
    number = tl.reshape(number, [STEP * WIDTH])
    return column, number, tl.reshape(reach, [STEP * WIDTH])


@triton.jit
def places(
    keys: tl.tensor, at: tl.tensor, first: int, k: int, PARTED: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Where each of the k largest goes, which those are, and which places are left."""
    keep = largest_of(keys, k)
    spot = tl.cumsum(keep, 0) - keep
    rest = (at >= tl.sum(keep, 0)) & (at < k)
    if PARTED:
        inner = largest_of(keys, first)
        outer = keep - inner
        after = first + tl.cumsum(outer, 0) - outer
        spot = tl.where(inner > 0, tl.cumsum(inner, 0) - inner, after)
        rest = (at >= tl.sum(inner, 0)) & (at < first)
        rest |= (at >= first + tl.sum(outer, 0)) & (at < k)
    return spot, keep, rest


@triton.jit
def shrunk(
    list_i: tl.tensor, list_v: tl.tensor, at: tl.tensor, filled: tl.tensor, k: int
) -> tl.tensor:
    """The list's k largest take its place, and how many those are; whatever is left out is not
    among the row's."""
    number = tl.load(list_v + at, mask=at < filled, other=0.0)
    column = tl.load(list_i + at, mask=at < filled, other=0)
    keep = largest_of(tl.where(at < filled, keys_of(number), 0), k)
    spot = tl.cumsum(keep, 0) - keep
    tl.debug_barrier()
    tl.store(list_v + spot, number, mask=keep > 0)
    tl.store(list_i + spot, column, mask=keep > 0)
    tl.debug_barrier()
    return tl.sum(keep, 0)


@triton.jit
def sure_above(
    number: tl.tensor,
    here: tl.tensor,
    cut: tl.tensor,
    error: tl.tensor,
    k: int,
    unit: float,
    tiny: float,
) -> tl.tensor:
    """U: entries that are above it, less what they may err by, are surely chosen."""
    keys = tl.where(here, keys_of(number), 0)
    rival = nth_largest(keys, k + 1).to(tl.float32, bitcast=True)
    # Asked this way round, a rival that is not a number leaves all open.
    rival = tl.where(rival < cut, cut, rival)
    # With what computing this itself has rounded.
    return rival + (unit + 1e-6) * tl.abs(rival) + 1.000001 * (error + tiny)


@triton.jit
def surely(
    number: tl.tensor, level: tl.tensor, error: tl.tensor, unit: float, tiny: float
) -> tl.tensor:
    """Whether an entry is above U whatever it errs by; not a number is not."""
    return number - (unit + 1e-6) * tl.abs(number) - 1.000001 * (error + tiny) > level


@triton.jit
def compute(
    list_i: tl.tensor,
    list_v: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    own: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    depth: int,
    BLOCK: tl.constexpr,
) -> None:
    """Entries of the list in float32."""
    column = tl.arange(0, BLOCK)
    for place in range(first, end):
        latent = tl.load(list_i + place).to(tl.int64)
        weights = tl.load(W + latent * depth + column, mask=column < depth, other=0.0)
        tl.store(list_v + place, tl.sum(weights * own, 0) + tl.load(b + latent))
    tl.debug_barrier()
