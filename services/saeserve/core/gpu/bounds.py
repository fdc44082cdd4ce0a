"""How far products in low precision can be from exact ones, for all rows in one launch.

    likely_b = D ((|x|_4 max |dW|_4)^2 + (|dx|_4 max |W|_4)^2)^(1/2)
        + s' n max |W| + 2 |dx| max |dW|
    proven_b = n max (|dW| + s |W|) + |dx| max |W|, with n = |x| + |dx|
    errors_b = safety (min(likely_b, proven_b) + max (|b - float16(b)| + 8 u |b|))

where dW and dx are what rounding took away, and maxima go over the latents (`rows`). A program
takes `ROWS` rows, and finds the maxima by itself: they come from the L2 cache.

Bytes of B rows and m latents: 24 m and 20 B. FLOPs: 6 m and 20 B.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu.shadows import Shadow

ROWS = 1024
BLOCK = 4096
"""Latents that are compared at once."""
WARPS = 32


def likely(
    x: Shadow,
    W: Shadow,
    biases: tuple[Tensor, Tensor],
    sums: tuple[float, float],
    deviations: float,
    unit: float,
    safety: float,
) -> Tensor:
    """The bounds [B]; `biases` are b and its rounded form, `sums` the proven share s of two norms
    that adding up loses and the likely one s', `deviations` is D and `unit` is u."""
    (count,), (latents,) = x.norm_F.shape, W.norm_F.shape
    errors_B = torch.empty_like(x.norm_F)
    launch(
        bounds_kernel,
        (triton.cdiv(count, ROWS),),
        (*x.norms, *W.norms, *biases, errors_B, count, latents, *sums, deviations, unit, safety),
        Work(bytes=22 * latents + 20 * count, flops=6 * latents + 20 * count),
        ROWS=ROWS,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return errors_B


@triton.jit
def _larger(most: tl.tensor, found: tl.tensor) -> tl.tensor:
    """The larger one, where a number that is not one stays."""
    return tl.where((found > most) | (found != found), found, most)


@triton.jit
def _largest(numbers: tl.tensor) -> tl.tensor:
    """The largest number of a block; not a number where one is not."""
    wrong = numbers != numbers
    return tl.max(tl.where(wrong, 0.0, numbers), 0) + tl.sum(tl.where(wrong, numbers, 0.0), 0)


@triton.jit
def bounds_kernel(
    norms: tl.tensor,
    lost: tl.tensor,
    fourths: tl.tensor,
    lost_fourths: tl.tensor,
    W_norms: tl.tensor,
    W_lost: tl.tensor,
    W_fourths: tl.tensor,
    W_lost_fourths: tl.tensor,
    bias: tl.tensor,
    bias_low: tl.tensor,
    errors: tl.tensor,
    count: int,
    latents: int,
    proven_sums: float,
    likely_sums: float,
    deviations: float,
    unit: float,
    safety: float,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Some rows a program."""
    norm = tl.zeros([BLOCK], tl.float32)
    left = tl.zeros([BLOCK], tl.float32)
    summed = tl.zeros([BLOCK], tl.float32)
    fourth = tl.zeros([BLOCK], tl.float32)
    left_fourth = tl.zeros([BLOCK], tl.float32)
    shift = tl.zeros([BLOCK], tl.float32)
    # Blocks of latents.
    for start in range(0, latents, BLOCK):
        at = start + tl.arange(0, BLOCK)
        here = at < latents
        own = tl.load(W_norms + at, mask=here, other=0.0)
        gone = tl.load(W_lost + at, mask=here, other=0.0)
        norm = _larger(norm, own)
        left = _larger(left, gone)
        summed = _larger(summed, gone + proven_sums * own)
        fourth = _larger(fourth, tl.load(W_fourths + at, mask=here, other=0.0))
        left_fourth = _larger(left_fourth, tl.load(W_lost_fourths + at, mask=here, other=0.0))
        b = tl.load(bias + at, mask=here, other=0.0)
        low = tl.load(bias_low + at, mask=here, other=0.0).to(tl.float32)
        shift = _larger(shift, tl.abs(b - low) + unit * tl.abs(b))
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = row < count
    gone = tl.load(lost + row, mask=here, other=0.0)
    whole = tl.load(norms + row, mask=here, other=0.0) + gone
    from_W = tl.load(fourths + row, mask=here, other=0.0) * _largest(left_fourth)
    from_x = tl.load(lost_fourths + row, mask=here, other=0.0) * _largest(fourth)
    longest = _largest(norm)
    # As a hypotenuse, so that squares neither vanish nor overflow.
    long = tl.maximum(from_W, from_x)
    ratio = tl.minimum(from_W, from_x) / tl.where(long > 0.0, long, 1.0)
    likely = deviations * long * tl.sqrt(1.0 + ratio * ratio) + likely_sums * whole * longest
    likely += 2.0 * gone * _largest(left)
    proven = _largest(summed) * whole + longest * gone
    bound = tl.where(proven < likely, proven, likely)
    tl.store(errors + row, safety * (bound + _largest(shift)), mask=here)
