"""Numbers of a whole batch that a step makes, in one launch each.

    losses: of the squared errors |e_bg|^2 of all prefixes g the terms of the loss, and
        c = -2 / (B variance), the scale of the gradients; NaN where rows or biases are not finite
    batch: sum_b |y_b - mean y|^2, and the number of active entries
    silent: for each latent the tokens since it fired, in two counters

One program adds what are some ten thousand numbers, in float64 and in one order.

Bytes of B rows of width d in G prefixes and T tiles, and of m latents: 4 B G T + 4 B + 4 m;
8 m + 16 d; 40 m. FLOPs: one a number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.launch import Work, launch

BLOCK, WARPS = 8192, 32
"""Numbers that the one program reads at once."""
LATENTS = 1024
"""Latents that a program counts."""


class Losses(NamedTuple):
    """float64 scalars on the device, but for `scale`."""

    loss: Tensor
    inner: Tensor
    """What the prefixes but the last one add."""
    last: Tensor
    squared_error: Tensor
    """The one of the prefix that was asked for."""
    nothing: Tensor
    """0"""
    scale: Tensor
    """c, float32"""


def losses(
    squares_BGT: Tensor,
    finite: tuple[Tensor, Tensor],
    variance: Tensor,
    shares: tuple[float, float],
    proper: int,
) -> Losses:
    """`finite` are numbers that the loss shows if they are not; `shares` the weights of each inner
    prefix and of the last; `proper` (from 0) is the one whose squared error is asked for."""
    (rows, groups, tiles), (norms_B, b_F) = squares_BGT.shape, finite
    out = squares_BGT.new_empty(len(Losses._fields) - 1, dtype=torch.float64)
    scale = squares_BGT.new_empty(())
    numbers = squares_BGT.numel() + norms_B.numel() + b_F.numel()
    launch(
        losses_kernel,
        (1,),
        (
            *(squares_BGT, norms_B, b_F, variance, out, scale),
            *(rows, groups, tiles, b_F.numel(), *shares, proper),
        ),
        Work(bytes=4 * numbers, flops=numbers),
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    loss, inner, last, squared_error, nothing = out.unbind()
    return Losses(loss, inner, last, squared_error, nothing, scale)


def batch(squares_O: Tensor, sum_O: Tensor, fired_F: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Variation of the target's rows around their mean, from `columns.moments`, and active
    entries; float64 scalars."""
    out = sum_O.new_empty(2)
    width, latents = sum_O.numel(), fired_F.numel()
    launch(
        batch_kernel,
        (1,),
        (squares_O, sum_O, fired_F, out, width, latents, rows),
        Work(bytes=16 * width + 8 * latents, flops=3 * width),
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return out[0], out[1]


def silent_(counters: tuple[Tensor, Tensor], fired_F: Tensor, tokens: int) -> None:
    """Count a batch in both int64 counters: 0 where a latent fired, `tokens` more elsewhere."""
    latents = fired_F.numel()
    launch(
        silent_kernel,
        (triton.cdiv(latents, LATENTS),),
        (*counters, fired_F, latents, tokens),
        Work(bytes=40 * latents),
        BLOCK=LATENTS,
    )


@triton.jit
def _sum(numbers: tl.tensor, count: int, BLOCK: tl.constexpr) -> tl.tensor:
    """The sum of numbers in float64."""
    total = tl.zeros([BLOCK], tl.float64)
    # Blocks of numbers.
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(numbers + at, mask=at < count, other=0.0).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def losses_kernel(
    squares: tl.tensor,
    norms: tl.tensor,
    bias: tl.tensor,
    variance: tl.tensor,
    out: tl.tensor,
    scale: tl.tensor,
    rows: int,
    groups: int,
    tiles: int,
    latents: int,
    inner_share: float,
    last_share: float,
    proper: int,
    BLOCK: tl.constexpr,
) -> None:
    """All that one program adds."""
    weight = 1.0 / (tl.load(variance).to(tl.float64) * rows)
    # Numbers that are not finite become NaN.
    wrong = 0.0 * (_sum(norms, rows, BLOCK) + _sum(bias, latents, BLOCK))
    # One number each, as blocks: a scalar would change its type in the loop.
    one = tl.arange(0, 1)
    inner = tl.zeros([1], tl.float64)
    last = tl.zeros([1], tl.float64)
    asked = tl.zeros([1], tl.float64)
    for group in range(groups):
        total = tl.zeros([BLOCK], tl.float64)
        # The group's tiles of all rows.
        for start in range(0, rows * tiles, BLOCK):
            number = start + tl.arange(0, BLOCK)
            at = ((number // tiles) * groups + group) * tiles + number % tiles
            here = number < rows * tiles
            total += tl.load(squares + at, mask=here, other=0.0).to(tl.float64)
        found = tl.sum(total, 0)
        inner += tl.where(group < groups - 1, found, 0.0)
        last += tl.where(group == groups - 1, found, 0.0)
        asked += tl.where(group == proper, found, 0.0)
    inner = wrong + inner_share * weight * inner
    last = last_share * weight * last
    tl.store(out + one, inner + last)
    tl.store(out + 1 + one, inner)
    tl.store(out + 2 + one, last)
    tl.store(out + 3 + one, asked)
    tl.store(out + 4, 0.0)
    tl.store(scale, (-2.0 * weight).to(tl.float32))


@triton.jit
def batch_kernel(
    squares: tl.tensor,
    sums: tl.tensor,
    fired: tl.tensor,
    out: tl.tensor,
    width: int,
    latents: int,
    rows: int,
    BLOCK: tl.constexpr,
) -> None:
    """All that one program adds."""
    means = tl.zeros([BLOCK], tl.float64)
    # Blocks of columns.
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        number = tl.load(sums + at, mask=at < width, other=0.0)
        means += number * number
    tl.store(out, _sum(squares, width, BLOCK) - tl.sum(means, 0) / rows)
    tl.store(out + 1, _sum(fired, latents, BLOCK))


@triton.jit
def silent_kernel(
    first: tl.tensor,
    second: tl.tensor,
    fired: tl.tensor,
    latents: int,
    tokens: int,
    BLOCK: tl.constexpr,
) -> None:
    """Some latents a program."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = at < latents
    active = tl.load(fired + at, mask=here, other=0) != 0
    longer = tl.load(first + at, mask=here, other=0) + tokens
    tl.store(first + at, tl.where(active, 0, longer), mask=here)
    longer = tl.load(second + at, mask=here, other=0) + tokens
    tl.store(second + at, tl.where(active, 0, longer), mask=here)
