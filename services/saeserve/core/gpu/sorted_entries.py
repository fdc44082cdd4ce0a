"""Entries in the order of their latents.

Sorted by torch (radix, stable), then laid out: bags, values and dots in the new order, and for each
latent where its entries begin. Bytes of N entries, whose dots are sums of T parts, and m latents:
the sort's, (32 + 4 T) N and 4 m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.entries import Entries
from saeserve.core.gpu.launch import Work, launch

BLOCK = 512
"""Entries, or latents, that a program lays out."""


@dataclass(frozen=True)
class Sorted:
    """Entries in order of latent, and of bag within a latent."""

    latents_N: Tensor
    """int32, as all numbers of bags and places"""
    bags_N: Tensor
    """That of an entry of value 0 may be any."""
    values_N: Tensor
    dots_N: Tensor
    first_F1: Tensor
    """Where each latent's entries begin; where the last one's end."""


def by_latent(entries: Entries, dots_TN: Tensor, latents: int) -> Sorted:
    """The entries laid out, with their dots; places that stand for nothing too."""
    (tiles, count), bags = dots_TN.shape, entries.starts.numel() - 1
    ordered_N, places_N = torch.sort(entries.latents_N, stable=True)
    ints = ordered_N.new_empty
    values_N, dots_N = dots_TN.new_empty(2, count)
    found = Sorted(ordered_N, ints(count), values_N, dots_N, ints(latents + 1))
    programs = triton.cdiv(count, BLOCK)
    launch(
        arrange_kernel,
        (programs + triton.cdiv(latents + 1, BLOCK),),
        (
            *(ordered_N, places_N, entries.values_N, dots_TN, entries.starts),
            *(found.bags_N, found.values_N, found.dots_N, found.first_F1),
            *(count, latents, bags, max(1, entries.each), programs, tiles),
        ),
        Work(bytes=(32 + 4 * tiles) * count + 4 * latents),
        EVEN=entries.each > 0,
        STEPS=count.bit_length() + 1,
        BAG_STEPS=bags.bit_length() + 1,
        BLOCK=BLOCK,
    )
    return found


@triton.jit
def _lower(
    ordered: tl.tensor, count: int, limit: tl.tensor, STEPS: tl.constexpr, BLOCK: tl.constexpr
) -> tl.tensor:
    """How many of the ascending numbers are below each limit, by halving."""
    low = tl.zeros([BLOCK], tl.int32)
    high = tl.zeros([BLOCK], tl.int32) + count
    for _ in range(STEPS):
        middle = (low + high) // 2
        inside = middle < high
        lower = inside & (tl.load(ordered + middle, mask=inside, other=0) < limit)
        low = tl.where(lower, middle + 1, low)
        high = tl.where(lower, high, middle)
    return low


@triton.jit
def arrange_kernel(
    ordered: tl.tensor,
    places: tl.tensor,
    values: tl.tensor,
    dots: tl.tensor,
    starts: tl.tensor,
    bags: tl.tensor,
    sorted_values: tl.tensor,
    sorted_dots: tl.tensor,
    first: tl.tensor,
    count: int,
    latents: int,
    many: int,
    each: int,
    programs: int,
    tiles: int,
    EVEN: tl.constexpr,
    STEPS: tl.constexpr,
    BAG_STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The first `programs` lay out entries, the others find where latents begin."""
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    if program < programs:
        at = program * BLOCK + lane
        here = at < count
        place = tl.load(places + at, mask=here, other=0)
        if EVEN:
            bag = (place // each).to(tl.int32)
        else:
            # The last one that begins at the place or before it.
            bag = _lower(starts, many, place + 1, BAG_STEPS, BLOCK) - 1
        tl.store(bags + at, bag, mask=here)
        tl.store(sorted_values + at, tl.load(values + place, mask=here, other=0.0), mask=here)
        dot = tl.load(dots + place, mask=here, other=0.0)
        # What the other tiles of columns add.
        for tile in range(1, tiles):
            dot += tl.load(dots + place + tl.cast(tile, tl.int64) * count, mask=here, other=0.0)
        tl.store(sorted_dots + at, dot, mask=here)
    else:
        latent = (program - programs) * BLOCK + lane
        low = _lower(ordered, count, latent, STEPS, BLOCK)
        tl.store(first + latent, low, mask=latent <= latents)
