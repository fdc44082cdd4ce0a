"""K7 for JumpReLU: activations after the encoder's product, gradients after the decoder's.

    v = s x W_enc^T;  h = v / s + b;  over = h - theta;  f = h where over > 0
    low(over): float16 whose sign is that of h - theta, and whose last bit says |h - theta| < half;
    0 where h = theta. Both as float32 has them (`dense_choice`).
    sums over rows: tanh(c_i f), (1 - tanh^2) f, [not over < 0], theta - h of the others, [over > 0]

    with a = <W_dec,i, r_b> in units of 1 / s_r and slope = 1 - tanh^2(c_i f):
    df = per_error a + firing_i slope - silent_i [over <= 0]
    dh = df [over > 0] + to_input_i df [in band] - below_i [over < 0] + below_i
    low = float16(q_i dh)
    sums over rows: of dh, of df in the band, of [in band]

The last term of dh is taken off where it is closed: below_i times the sum of all rows (see
`kernels.jumprelu.passes`, whose terms these are).

Bytes of B rows and m latents, e an entry (2 low, 4 float32): 3 e B m and 3 e B m, and 20 m and
12 m of sums for each `EACH` rows. FLOPs: 20 B m and 20 B m. A launch each; sums have one order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu import dense_choice as choice
from saeserve.core.gpu.dense_choice import computed_again, kept_positive, margin, proven
from saeserve.core.gpu.dense_rows import Operand, rounded_product
from saeserve.core.gpu.launch import Work, launch
from saeserve.core.kernels.jumprelu.passes import Pricing

FIRE_SUMS, BACK_SUMS = 5, 3
BACK_ROWS = 64
BACK_COLUMNS = 128
BACK_WARPS = 1


class Fired(NamedTuple):
    """Activations and what says how they came about."""

    f_BF: Tensor
    """s f"""
    over_BF: Tensor
    """low(over), or s over in float32"""
    sums_SF: Tensor
    """The five sums over rows."""


def fire(
    x: Operand,
    W_enc: Operand,
    b_F: Tensor,
    threshold_F: Tensor,
    tanh_scale_F: Tensor,
    half: float,
) -> Fired:
    """Run the encoder's product and the pass after it."""
    over_BF = rounded_product(x.low_XD, W_enc.low_XD.T)
    rows, latents = over_BF.shape
    f_BF = torch.empty_like(over_BF)
    sums_PSF = b_F.new_empty(choice.parts_of(rows), FIRE_SUMS, latents)
    launch(
        jumprelu_fire_kernel,
        choice.grid_of(rows, latents),
        (
            *(over_BF, f_BF, x.rows_XD, W_enc.rows_XD, b_F, threshold_F, tanh_scale_F),
            *(W_enc.norm_X, W_enc.lost_X, x.norm_X, x.lost_X, x.scales, sums_PSF),
            *(rows, latents, x.rows_XD.shape[1], x.additions, half),
        ),
        choice.work_of(x, latents, 3 * f_BF.element_size(), FIRE_SUMS, vectors=5),
        LOW=not x.exact,
        EACH=choice.EACH,
        COLUMNS=choice.COLUMNS,
        GROUP=choice.GROUP,
        TILE=choice.TILE,
        num_warps=choice.WARPS,
    )
    return Fired(f_BF, over_BF, sums_PSF.sum(0))


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
def _tanh(z: tl.tensor) -> tl.tensor:
    """tanh of z >= 0; the exponential may be infinite."""
    return 1.0 - 2.0 / (tl.exp(2.0 * z) + 1.0)


@triton.jit
def _packed(over: tl.tensor, wide: float) -> tl.tensor:
    """low(over) of the module's text."""
    bits = over.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
    size = bits & 0x7FFE
    size = tl.where((over != 0.0) & (size == 0), 2, size)
    size |= (tl.abs(over) < wide).to(tl.int32)
    code = tl.where(over == 0.0, 0, (bits & 0x8000) | size)
    return code.to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _in_band(stored: tl.tensor, over: tl.tensor, wide: float, LOW: tl.constexpr) -> tl.tensor:
    """Whether |h - theta| < half, from what the first pass has stored."""
    if LOW:
        bits = stored.to(tl.int16, bitcast=True).to(tl.int32)
        return ((bits & 1) != 0) | (bits == 0)
    return tl.abs(over) < wide


@triton.jit
def _store(
    at: tl.tensor, latents: int, inside: tl.tensor, a: tl.tensor, b: tl.tensor, c: tl.tensor
) -> None:
    """Three sums of some columns, in rows one below the other."""
    tl.store(at, a, mask=inside)
    tl.store(at + latents, b, mask=inside)
    tl.store(at + 2 * latents, c, mask=inside)


@triton.jit
def jumprelu_fire_kernel(
    values: tl.tensor,
    f: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    threshold: tl.tensor,
    tanh_scale: tl.tensor,
    weight_norms: tl.tensor,
    weight_lost: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    scales: tl.tensor,
    sums: tl.tensor,
    rows: int,
    latents: int,
    depth: int,
    additions: float,
    half: float,
    LOW: tl.constexpr,
    EACH: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Some columns of `EACH` rows a program: over takes the product's place."""
    part = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    inside = column < latents
    scale, inverse = tl.load(scales), tl.load(scales + 1)
    bias = scale * tl.load(b + column, mask=inside, other=0.0)
    level = scale * tl.load(threshold + column, mask=inside, other=0.0)
    steep = tl.load(tanh_scale + column, mask=inside, other=0.0)
    wide = scale * half
    weight_norm = tl.load(weight_norms + column, mask=inside, other=0.0)
    lost_of_weight = tl.load(weight_lost + column, mask=inside, other=0.0)
    firing = tl.zeros([COLUMNS], tl.float32)
    slopes = tl.zeros([COLUMNS], tl.float32)
    not_below = tl.zeros([COLUMNS], tl.float32)
    depth_below = tl.zeros([COLUMNS], tl.float32)
    count = tl.zeros([COLUMNS], tl.float32)
    # One row after the other.
    for step in range(0, tl.minimum(rows - part * EACH, EACH)):
        row = part * EACH + step
        at = row * latents + column
        value = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
        if LOW:
            norm = tl.load(norms + row)
            row_lost = tl.load(lost + row)
            loss = proven(norm, row_lost, weight_norm, lost_of_weight, additions)
            m = margin(value, tl.abs(bias) + level, loss)
            distance = tl.abs(value + bias - level)
            # Asked this way round, not a number is unsure.
            sure = (distance > m) & (tl.abs(distance - wide) > m)
            unsure = inside & (sure == 0)
            value = computed_again(
                value, unsure, first, x + row * depth, W, depth, scale, COLUMNS, GROUP, TILE
            )
        h = value + bias
        over = h - level
        # Not a number stays one.
        activation = tl.where(over <= 0.0, 0.0, h)
        tl.store(f + at, kept_positive(activation, LOW), mask=inside)
        if LOW:
            tl.store(values + at, _packed(over, wide), mask=inside)
        else:
            tl.store(values + at, over, mask=inside)
        activation = tl.where(inside, inverse * activation, 0.0)
        tanh = _tanh(steep * activation)
        firing += tanh
        slopes += (1.0 - tanh * tanh) * activation
        up = inside & ((over < 0.0) == 0)
        not_below += up.to(tl.float32)
        depth_below -= tl.where(inside & (over < 0.0), inverse * over, 0.0)
        count += (inside & (over > 0.0)).to(tl.float32)
    at_sums = sums + part * 5 * latents + column
    _store(at_sums, latents, inside, firing, slopes, not_below)
    tl.store(at_sums + 3 * latents, depth_below, mask=inside)
    tl.store(at_sums + 4 * latents, count, mask=inside)


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
        tanh = _tanh(steep * f)
        by_f = each_error * tl.load(along + at, mask=inside, other=0.0).to(tl.float32)
        by_f += own_firing * (1.0 - tanh * tanh) - tl.where(active, 0.0, own_silent)
        by_h = tl.where(active, by_f, 0.0) + tl.where(in_band, slope_to_input * by_f, 0.0)
        by_h += tl.where(inside & ((over < 0.0) == 0), own_below, 0.0)
        tl.store(along + at, (own_fit * by_h).to(along.dtype.element_ty), mask=inside)
        shift += by_h
        band += tl.where(in_band, by_f, 0.0)
        entries += in_band.to(tl.float32)
    at_sums = sums + part * 3 * latents + column
    _store(at_sums, latents, inside, shift, band, entries)
