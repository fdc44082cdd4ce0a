"""K7 for JumpReLU: gradients after the decoder's product (`jumprelu_fire`: activations).

    with low(over) of that pass, a = <W_dec,i, r_b> in units of 1 / s_r, slope = 1 - tanh^2(c_i f):
    df = per_error a + firing_i slope - silent_i [over <= 0]
    dh = df [over > 0] + to_input_i df [in band] - below_i [over < 0] + below_i
    low = float16(q_i dh)
    sums over rows: of dh, of df in the band, of [in band]

The last term of dh is taken off where it is closed: below_i times the sum of all rows (see
`kernels.jumprelu.passes`, whose terms these are).

Bytes of B rows and m latents, e an entry (2 low, 4 float32): 3 e B m, and 12 m of sums for each
`BACK_ROWS` rows. FLOPs: 20 B m. One launch; sums have one order.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu_dense.jumprelu_fire import tanh_of
from saeserve.core.kernels.jumprelu.passes import Pricing

BACK_SUMS = 3
BACK_ROWS = 64
BACK_COLUMNS = 128
BACK_WARPS = 1


def back(
    over_BF: Tensor,
    along_BF: Tensor,
    scales: tuple[Tensor, Tensor],
    pricing: Pricing,
    fit_F: Tensor,
) -> Tensor:
    """Write q dh over `along_BF`; returns the sums of dh, of df in the band and of [in band].

    `scales` are those of the input and of the residual, `fit_F` is q.
    """
    vectors = (
        *(pricing.threshold_F, pricing.firing_F, pricing.silent_F),
        *(pricing.below_F, pricing.to_input_F, pricing.tanh_scale_F),
    )
    rows, latents = over_BF.shape
    parts = triton.cdiv(rows, BACK_ROWS)
    sums_PSF = fit_F.new_empty(parts, BACK_SUMS, latents)
    launch(
        jumprelu_back_kernel,
        (parts, triton.cdiv(latents, BACK_COLUMNS)),
        (
            *(over_BF, along_BF, *vectors, fit_F, *scales, sums_PSF),
            *(rows, latents, pricing.half_width, pricing.per_error),
        ),
        Work(
            bytes=rows * latents * 3 * over_BF.element_size() + 4 * latents * parts * 10,
            flops=20 * rows * latents,
        ),
        LOW=over_BF.dtype != torch.float32,
        EACH=BACK_ROWS,
        COLUMNS=BACK_COLUMNS,
        num_warps=BACK_WARPS,
    )
    return sums_PSF.sum(0)


@triton.jit
def _in_band(stored: tl.tensor, over: tl.tensor, wide: float, LOW: tl.constexpr) -> tl.tensor:
    """Whether |h - theta| < half, from what the first pass has stored."""
    if LOW:
        bits = stored.to(tl.int16, bitcast=True).to(tl.int32)
        return ((bits & 1) != 0) | (bits == 0)
    return tl.abs(over) < wide


@triton.jit
def jumprelu_back_kernel(
    stored: tl.tensor,
    along: tl.tensor,
    threshold: tl.tensor,
    firing: tl.tensor,
    silent: tl.tensor,
    below: tl.tensor,
    to_input: tl.tensor,
    tanh_scale: tl.tensor,
    fit: tl.tensor,
    scales: tl.tensor,
    error_scales: tl.tensor,
    sums: tl.tensor,
    rows: int,
    latents: int,
    half: float,
    per_error: float,
    LOW: tl.constexpr,
    EACH: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Some columns of `EACH` rows a program."""
    part = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < latents
    level = tl.load(threshold + column, mask=inside, other=0.0)
    own_firing = tl.load(firing + column, mask=inside, other=0.0)
    own_silent = tl.load(silent + column, mask=inside, other=0.0)
    own_below = tl.load(below + column, mask=inside, other=0.0)
    slope_to_input = tl.load(to_input + column, mask=inside, other=0.0)
    steep = tl.load(tanh_scale + column, mask=inside, other=0.0)
    own_fit = tl.load(fit + column, mask=inside, other=0.0)
    inverse = tl.load(scales + 1)
    wide = tl.load(scales) * half
    each_error = per_error * tl.load(error_scales + 1)
    shift = tl.zeros([COLUMNS], tl.float32)
    band = tl.zeros([COLUMNS], tl.float32)
    entries = tl.zeros([COLUMNS], tl.float32)
    # One row after the other.
    for step in range(0, tl.minimum(rows - part * EACH, EACH)):
        row = part * EACH + step
        at = row * latents + column
        code = tl.load(stored + at, mask=inside, other=0.0)
        over = code.to(tl.float32)
        in_band = inside & _in_band(code, over, wide, LOW)
        active = over > 0.0
        f = tl.where(active, inverse * over + level, 0.0)
        tanh = tanh_of(steep * f)
        by_f = each_error * tl.load(along + at, mask=inside, other=0.0).to(tl.float32)
        by_f += own_firing * (1.0 - tanh * tanh) - tl.where(active, 0.0, own_silent)
        by_h = tl.where(active, by_f, 0.0) + tl.where(in_band, slope_to_input * by_f, 0.0)
        by_h += tl.where(inside & ((over < 0.0) == 0), own_below, 0.0)
        tl.store(along + at, (own_fit * by_h).to(along.dtype.element_ty), mask=inside)
        shift += by_h
        band += tl.where(in_band, by_f, 0.0)
        entries += in_band.to(tl.float32)
    at_sums = sums + part * 3 * latents + column
    tl.store(at_sums, shift, mask=inside)
    tl.store(at_sums + latents, band, mask=inside)
    tl.store(at_sums + 2 * latents, entries, mask=inside)
