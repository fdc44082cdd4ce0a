"""Entries of a rectangle of k a row in the order of their latents.

Sorted by torch (radix, stable), then laid out: rows, values and dots in the new order, and for each
latent where its entries begin. Bytes of N entries and m latents: the sort's, 36 N and 4 m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.choice import Chosen
from saeserve.core.gpu.launch import Work, launch

BLOCK = 512
"""Entries, or latents, that a program lays out."""


@dataclass(frozen=True)
class Sorted:
    """Entries in order of latent, and of row within a latent."""

    latents_N: Tensor
    """int32, as all numbers of rows and places"""
    rows_N: Tensor
    values_N: Tensor
    dots_N: Tensor
    first_F1: Tensor
    """Where each latent's entries begin; where the last one's end."""


def by_latent(chosen: Chosen, dots_BK: Tensor, latents: int) -> Sorted:
    """Sort all entries."""
    k, count = dots_BK.shape[1], dots_BK.numel()
    ordered_N, places_N = torch.sort(chosen.latents_BK.flatten(), stable=True)
    ints = ordered_N.new_empty
    found = Sorted(
        *(ordered_N, ints(count), dots_BK.new_empty(count), dots_BK.new_empty(count)),
        ints(latents + 1),
    )
    programs = triton.cdiv(count, BLOCK)
    launch(
        arrange_kernel,
        (programs + triton.cdiv(latents + 1, BLOCK),),
        (
            *(ordered_N, places_N, chosen.values_BK, dots_BK),
            *(found.rows_N, found.values_N, found.dots_N, found.first_F1),
            *(count, latents, k, programs),
        ),
        Work(bytes=36 * count + 4 * latents),
        STEPS=count.bit_length() + 1,
        BLOCK=BLOCK,
    )
    return found


@triton.jit
def arrange_kernel(
    ordered: tl.tensor,
    places: tl.tensor,
    values: tl.tensor,
    dots: tl.tensor,
    rows: tl.tensor,
    sorted_values: tl.tensor,
    sorted_dots: tl.tensor,
    first: tl.tensor,
    count: int,
    latents: int,
    k: int,
    programs: int,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The first `programs` lay out entries, the others find where latents begin."""
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    if program < programs:
        at = program * BLOCK + lane
        here = at < count
        place = tl.load(places + at, mask=here, other=0)
        tl.store(rows + at, (place // k).to(tl.int32), mask=here)
        tl.store(sorted_values + at, tl.load(values + place, mask=here, other=0.0), mask=here)
        tl.store(sorted_dots + at, tl.load(dots + place, mask=here, other=0.0), mask=here)
    else:
        # How many entries have a lower latent, by halving.
        latent = (program - programs) * BLOCK + lane
        low = tl.zeros([BLOCK], tl.int32)
        high = tl.zeros([BLOCK], tl.int32) + count
        for _ in range(STEPS):
            middle = (low + high) // 2
            inside = middle < high
            lower = inside & (tl.load(ordered + middle, mask=inside, other=0) < latent)
            low = tl.where(lower, middle + 1, low)
            high = tl.where(lower, high, middle)
        tl.store(first + latent, low, mask=latent <= latents)
