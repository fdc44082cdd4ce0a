"""Entries of rows parted into the groups of nested prefixes: group g of a row has the latents below
widths[g] that the groups before it lack.

Latents ascend in a row, so a group is found by halving. Bytes of B rows with G groups: 4 B G
written. One launch.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.entries import Entries
from saeserve.core.gpu.launch import Work, launch

BLOCK = 256
"""Bags that a program finds."""


def by_prefix(entries: Entries, widths: tuple[int, ...]) -> Entries:
    """The same entries in a group for each width; they are in one so far."""
    groups = len(widths)
    if groups == 1:
        return entries
    bags = groups * (entries.starts.numel() - 1)
    starts = entries.starts.new_empty(bags + 1)
    bounds = _on(entries.starts.device, widths)
    launch(
        prefixes_kernel,
        (triton.cdiv(bags + 1, BLOCK),),
        (entries.starts, entries.latents_N, bounds, starts, bags, groups),
        Work(bytes=4 * bags),
        STEPS=widths[-1].bit_length() + 1,
        BLOCK=BLOCK,
    )
    return Entries(entries.values_N, entries.latents_N, starts, groups)


@cache
def _on(device: torch.device, widths: tuple[int, ...]) -> Tensor:
    """The widths on a device, to which they are copied once: a graph that was recorded reads them
    there."""
    return torch.tensor(widths, dtype=torch.int32, device=device)


@triton.jit
def prefixes_kernel(
    rows: tl.tensor,
    latents: tl.tensor,
    widths: tl.tensor,
    starts: tl.tensor,
    bags: int,
    groups: int,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Where each bag begins, and where the last one ends."""
    bag = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, group = bag // groups, bag % groups
    low = tl.load(rows + row, mask=bag <= bags, other=0)
    inner = (bag < bags) & (group > 0)
    high = tl.load(rows + row + 1, mask=inner, other=0)
    least = tl.load(widths + group - 1, mask=inner, other=0)
    # The first entry of the row whose latent the groups before do not have.
    for _ in range(STEPS):
        middle = (low + high) // 2
        inside = inner & (middle < high)
        lower = inside & (tl.load(latents + middle, mask=inside, other=0) < least)
        low = tl.where(lower, middle + 1, low)
        high = tl.where(lower, high, middle)
    tl.store(starts + bag, low, mask=bag <= bags)
