"""K7 for JumpReLU: activations after the encoder's product (`jumprelu` has the pass back).

    v = s x W_enc^T;  h = v / s + b;  over = h - theta;  f = h where over > 0
    low(over): float16 whose sign is that of h - theta, and whose last bit says |h - theta| < half;
    0 where h = theta. Both as float32 has them (`choice`).
    sums over rows: tanh(c_i f), (1 - tanh^2) f, [not over < 0], theta - h of the others, [over > 0]

Bytes of B rows and m latents, e an entry (2 low, 4 float32): 3 e B m and 20 m of sums for each
`EACH` rows; with U marked entries 5 U, and 20 m of sums for each 32 `WORDS` rows. FLOPs:
20 B m and 2 d U. Two launches (float32: one); sums have one order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.launch import launch
from saeserve.core.gpu_dense import choice
from saeserve.core.gpu_dense.choice import (
    kept_positive,
    marks_at,
    next_marked,
    norms_at,
    ones_of,
    product_of,
    rounding_of,
    row_of,
)
from saeserve.core.gpu_dense.rows import Operand, rounded_product

SUMS = 5


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
    sums_PSF = b_F.new_empty(choice.sums_of(x), SUMS, latents)
    marks_WF, vectors = choice.marks_of(x, latents), (b_F, threshold_F, tanh_scale_F)
    launch(
        jumprelu_fire_kernel,
        choice.grid_of(rows, latents),
        (
            *(over_BF, f_BF, marks_WF, *vectors, *W_enc.norms, *x.norms, x.scales, sums_PSF),
            *(rows, latents, x.additions, x.likely_additions, half),
        ),
        choice.work_of(x, latents, 3 * f_BF.element_size(), SUMS, vectors=7),
        **choice.first_options(x),
    )
    if not x.exact:
        launch(
            jumprelu_settle_kernel,
            choice.settling_grid_of(rows, latents),
            (
                *(over_BF, f_BF, marks_WF, x.rows_XD, W_enc.rows_XD, *vectors, x.scales, sums_PSF),
                *(marks_WF.shape[0], choice.parts_of(rows), latents, x.rows_XD.shape[1], half),
            ),
            choice.settling_work_of(x, latents, 4, SUMS),
            **choice.second_options(),
        )
    return Fired(f_BF, over_BF, sums_PSF.sum(0))


@triton.jit
def tanh_of(z: tl.tensor) -> tl.tensor:
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
def _stored(
    over_at: tl.tensor,
    f_at: tl.tensor,
    inside: tl.tensor,
    over: tl.tensor,
    h: tl.tensor,
    wide: float,
    LOW: tl.constexpr,
) -> tl.tensor:
    """Store entries; returns s f."""
    # Not a number stays one.
    activation = tl.where(over <= 0.0, 0.0, h)
    tl.store(f_at, kept_positive(activation, LOW), mask=inside)
    if LOW:
        tl.store(over_at, _packed(over, wide), mask=inside)
    else:
        tl.store(over_at, over, mask=inside)
    return activation


@triton.jit
def _store_sums(
    at: tl.tensor,
    latents: int,
    inside: tl.tensor,
    firing: tl.tensor,
    slopes: tl.tensor,
    not_below: tl.tensor,
    depth_below: tl.tensor,
    count: tl.tensor,
) -> None:
    """Sums of some columns, in rows one below the other."""
    tl.store(at, firing, mask=inside)
    tl.store(at + latents, slopes, mask=inside)
    tl.store(at + 2 * latents, not_below, mask=inside)
    tl.store(at + 3 * latents, depth_below, mask=inside)
    tl.store(at + 4 * latents, count, mask=inside)


@triton.jit
def jumprelu_fire_kernel(
    values: tl.tensor,
    f: tl.tensor,
    marks: tl.tensor,
    b: tl.tensor,
    threshold: tl.tensor,
    tanh_scale: tl.tensor,
    weight_norms: tl.tensor,
    weight_lost: tl.tensor,
    weight_fourths: tl.tensor,
    weight_lost_fourths: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    fourths: tl.tensor,
    lost_fourths: tl.tensor,
    scales: tl.tensor,
    sums: tl.tensor,
    rows: int,
    latents: int,
    additions: float,
    likely_additions: float,
    half: float,
    DEVIATIONS: tl.constexpr,
    LOW: tl.constexpr,
    EACH: tl.constexpr,
    BITS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Some columns of `EACH` rows a program: over takes the product's place; unsure ones are
    marked, and left out of the sums."""
    part = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < latents
    scale, inverse = tl.load(scales), tl.load(scales + 1)
    bias = scale * tl.load(b + column, mask=inside, other=0.0)
    level = scale * tl.load(threshold + column, mask=inside, other=0.0)
    steep = tl.load(tanh_scale + column, mask=inside, other=0.0)
    wide = scale * half
    norm_of, lost_of, fourth_of, lost_fourth_of = norms_at(
        weight_norms, weight_lost, weight_fourths, weight_lost_fourths, column, inside
    )
    first_row = part * EACH
    end = tl.minimum(first_row + EACH, rows)
    firing = tl.zeros([COLUMNS], tl.float32)
    slopes = tl.zeros([COLUMNS], tl.float32)
    not_below = tl.zeros([COLUMNS], tl.float32)
    depth_below = tl.zeros([COLUMNS], tl.float32)
    count = tl.zeros([COLUMNS], tl.float32)
    next_0 = row_of(values, first_row, end, latents, column, inside)
    next_1 = row_of(values, first_row + 1, end, latents, column, inside)
    next_2 = row_of(values, first_row + 2, end, latents, column, inside)
    # As many rows as there are marks in a number.
    for start in range(first_row, end, BITS):
        bits, mark = tl.zeros([COLUMNS], tl.int32), tl.full([1], 1, tl.int32)
        # One row after the other, of which the next ones are on their way.
        for row in range(start, tl.minimum(start + BITS, end)):
            value = next_0.to(tl.float32)
            next_0, next_1 = next_1, next_2
            next_2 = row_of(values, row + 3, end, latents, column, inside)
            at = row * latents + column
            h = value + bias
            over = h - level
            counted = inside
            if LOW:
                m = rounding_of(
                    value,
                    tl.abs(bias) + level,
                    tl.load(norms + row),
                    tl.load(lost + row),
                    tl.load(fourths + row),
                    tl.load(lost_fourths + row),
                    norm_of,
                    lost_of,
                    fourth_of,
                    lost_fourth_of,
                    additions,
                    likely_additions,
                    DEVIATIONS,
                )
                distance = tl.abs(over)
                # Asked this way round, not a number is unsure.
                counted = inside & (distance > m) & (tl.abs(distance - wide) > m)
                unsure = inside & (counted == 0)
                bits |= tl.where(unsure, mark, 0)
                mark <<= 1
            activation = _stored(values + at, f + at, inside, over, h, wide, LOW)
            activation = tl.where(counted, inverse * activation, 0.0)
            tanh = tanh_of(steep * activation)
            firing += tanh
            slopes += (1.0 - tanh * tanh) * activation
            not_below += (counted & ((over < 0.0) == 0)).to(tl.float32)
            depth_below -= tl.where(counted & (over < 0.0), inverse * over, 0.0)
            count += (counted & (over > 0.0)).to(tl.float32)
        if LOW:
            tl.store(marks + start // BITS * latents + column, bits, mask=inside)
    at_sums = sums + part * 5 * latents + column
    _store_sums(at_sums, latents, inside, firing, slopes, not_below, depth_below, count)


@triton.jit
def jumprelu_settle_kernel(
    values: tl.tensor,
    f: tl.tensor,
    marks: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    threshold: tl.tensor,
    tanh_scale: tl.tensor,
    scales: tl.tensor,
    sums: tl.tensor,
    words: int,
    parts: int,
    latents: int,
    depth: int,
    half: float,
    BITS: tl.constexpr,
    WORDS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Marked entries of a latent in `WORDS` numbers of marks a program, whose sums follow those of
    the pass."""
    latent = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1).to(tl.int64)
    first = block * WORDS
    bits = marks_at(marks, first, words, latents, latent, WORDS)
    total = tl.sum(ones_of(bits), 0)
    scale, inverse = tl.load(scales), tl.load(scales + 1)
    bias = scale * tl.load(b + latent)
    level = scale * tl.load(threshold + latent)
    steep = tl.load(tanh_scale + latent)
    wide = scale * half
    firing = 0.0
    slopes = 0.0
    not_below = 0.0
    depth_below = 0.0
    count = 0.0
    # One entry after the other.
    for _ in range(0, total):
        found, bits = next_marked(bits, BITS)
        row = first * BITS + found
        value = scale * product_of(x + row * depth, W + latent * depth, depth, TILE)
        h = value + bias
        over = h - level
        at = row * latents + latent
        activation = _stored(values + at, f + at, True, over, h, wide, True)
        activation = inverse * activation
        tanh = tanh_of(steep * activation)
        firing += tanh
        slopes += (1.0 - tanh * tanh) * activation
        not_below += ((over < 0.0) == 0).to(tl.float32)
        depth_below -= tl.where(over < 0.0, inverse * over, 0.0)
        count += (over > 0.0).to(tl.float32)
    at_sums = sums + (parts + block) * 5 * latents + latent
    _store_sums(at_sums, latents, True, firing, slopes, not_below, depth_below, count)
