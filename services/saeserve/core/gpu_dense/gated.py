"""K7 for gated SAEs: activations after the encoder's product, gradients after the decoder's.

    v = s x W_enc^T for rows less the input's bias;  pi' = v + s b_gate;  h' = e_i v + s b_mag
    open' = max(pi', 0);  f' = max(h', 0) where pi' > 0, else 0; signs as in float32

    with a, a' = <W_dec,i, r_b> of both reconstructions in units of 1 / s_r, c = -2 / B:
    dh = c a [f > 0];  dpi = (c a' + price_i) [open > 0];  low = float16(q (e_i dh + dpi))
    sums over rows: of dpi, of dh, of dh f, of open, of [f > 0]

Bytes of B rows and m latents, e an entry (2 low, 4 float32): 3 e B m, with U marked entries 4 U,
and 5 e B m and 20 m of sums for each `BACK_ROWS` rows. FLOPs: 12 B m, 2 d U and 14 B m. A launch
each (float32: no second one); sums have one order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.launch import Work, launch
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
BACK_ROWS = 64
BACK_COLUMNS = 128
BACK_WARPS = 1


class Vectors(NamedTuple):
    """Vectors [F] in the order of the kernel's arguments."""

    b_gate: Tensor
    b_mag: Tensor
    scale: Tensor
    """e: exp of r_mag"""


def fire(x: Operand, W_enc: Operand, vectors: Vectors) -> Tensor:
    """Run the encoder's product and the pass after it: s f and s open, one below the other, which
    share the decoder's product [2 B, F]."""
    rows, latents = x.low_XD.shape[0], W_enc.low_XD.shape[0]
    both_XF = torch.empty(2 * rows, latents, dtype=x.low_XD.dtype, device=x.low_XD.device)
    rounded_product(x.low_XD, W_enc.low_XD.T, out=both_XF[rows:])
    marks_WF = choice.marks_of(x, latents)
    launch(
        gated_fire_kernel,
        choice.grid_of(rows, latents),
        (
            *(both_XF, marks_WF, *vectors, *W_enc.norms, *x.norms, x.scales),
            *(rows, latents, x.additions, x.likely_additions),
        ),
        choice.work_of(x, latents, 3 * both_XF.element_size(), sums=0, vectors=7),
        **choice.first_options(x),
    )
    if not x.exact:
        launch(
            gated_settle_kernel,
            choice.settling_grid_of(rows, latents),
            (
                *(both_XF, marks_WF, x.rows_XD, W_enc.rows_XD, *vectors, x.scales),
                *(marks_WF.shape[0], rows, latents, x.rows_XD.shape[1]),
            ),
            choice.settling_work_of(x, latents, 4, sums=0),
            **choice.second_options(),
        )
    return both_XF


def back(
    both_XF: Tensor,
    along_XF: Tensor,
    scales: tuple[Tensor, Tensor],
    vectors: tuple[Tensor, Tensor, Tensor],
    per_error: float,
) -> Tensor:
    """Write q (e dh + dpi) over the first half of `along_XF`; returns the five sums [5, F].

    `scales` are those of the input and of the residuals, `vectors` are e, the price of an open
    gate, and q.
    """
    rows, latents = both_XF.shape[0] // 2, both_XF.shape[1]
    parts = triton.cdiv(rows, BACK_ROWS)
    sums_PSF = vectors[0].new_empty(parts, SUMS, latents)
    launch(
        gated_back_kernel,
        (parts, triton.cdiv(latents, BACK_COLUMNS)),
        (both_XF, along_XF, *vectors, *scales, sums_PSF, rows, latents, per_error),
        Work(
            bytes=rows * latents * 5 * both_XF.element_size() + 4 * latents * parts * (SUMS + 3),
            flops=14 * rows * latents,
        ),
        EACH=BACK_ROWS,
        COLUMNS=BACK_COLUMNS,
        num_warps=BACK_WARPS,
    )
    return sums_PSF.sum(0)


@triton.jit
def _store(
    both: tl.tensor,
    row: tl.tensor,
    rows: int,
    latents: int,
    column: tl.tensor,
    inside: tl.tensor,
    pi: tl.tensor,
    h: tl.tensor,
    LOW: tl.constexpr,
) -> None:
    """f, and open gates below it, from both pre-activations."""
    f = tl.where(pi <= 0.0, 0.0, h)
    tl.store(both + (rows + row) * latents + column, kept_positive(pi, LOW), mask=inside)
    tl.store(both + row * latents + column, kept_positive(f, LOW), mask=inside)


@triton.jit
def gated_fire_kernel(
    both: tl.tensor,
    marks: tl.tensor,
    b_gate: tl.tensor,
    b_mag: tl.tensor,
    mag_scale: tl.tensor,
    weight_norms: tl.tensor,
    weight_lost: tl.tensor,
    weight_fourths: tl.tensor,
    weight_lost_fourths: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    fourths: tl.tensor,
    lost_fourths: tl.tensor,
    scales: tl.tensor,
    rows: int,
    latents: int,
    additions: float,
    likely_additions: float,
    DEVIATIONS: tl.constexpr,
    LOW: tl.constexpr,
    EACH: tl.constexpr,
    BITS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Some columns of `EACH` rows a program: open gates over the product below f; marks."""
    part = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < latents
    scale = tl.load(scales)
    gate = scale * tl.load(b_gate + column, mask=inside, other=0.0)
    shift = scale * tl.load(b_mag + column, mask=inside, other=0.0)
    steep = tl.load(mag_scale + column, mask=inside, other=0.0)
    norm_of, lost_of, fourth_of, lost_fourth_of = norms_at(
        weight_norms, weight_lost, weight_fourths, weight_lost_fourths, column, inside
    )
    first_row = part * EACH
    end = tl.minimum(first_row + EACH, rows)
    below, end_below = rows + first_row, rows + end
    next_0 = row_of(both, below, end_below, latents, column, inside)
    next_1 = row_of(both, below + 1, end_below, latents, column, inside)
    next_2 = row_of(both, below + 2, end_below, latents, column, inside)
    # As many rows as there are marks in a number.
    for start in range(first_row, end, BITS):
        bits, mark = tl.zeros([COLUMNS], tl.int32), tl.full([1], 1, tl.int32)
        # One row after the other, of which the next ones are on their way.
        for row in range(start, tl.minimum(start + BITS, end)):
            value = next_0.to(tl.float32)
            next_0, next_1 = next_1, next_2
            next_2 = row_of(both, rows + row + 3, end_below, latents, column, inside)
            pi = value + gate
            h = steep * value + shift
            if LOW:
                m = rounding_of(
                    value,
                    tl.abs(gate),
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
                far = tl.abs(h) > steep * m + 4.7683716e-7 * tl.abs(shift)
                # Asked this way round, not a number is unsure. Behind a closed gate h is 0.
                unsure = inside & (((tl.abs(pi) > m) & (far | (pi < 0.0))) == 0)
                bits |= tl.where(unsure, mark, 0)
                mark <<= 1
            _store(both, row, rows, latents, column, inside, pi, h, LOW)
        if LOW:
            tl.store(marks + start // BITS * latents + column, bits, mask=inside)


@triton.jit
def gated_settle_kernel(
    both: tl.tensor,
    marks: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b_gate: tl.tensor,
    b_mag: tl.tensor,
    mag_scale: tl.tensor,
    scales: tl.tensor,
    words: int,
    rows: int,
    latents: int,
    depth: int,
    BITS: tl.constexpr,
    WORDS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Marked entries of a latent a program, in `WORDS` numbers of marks."""
    latent = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1).to(tl.int64) * WORDS
    bits = marks_at(marks, first, words, latents, latent, WORDS)
    total = tl.sum(ones_of(bits), 0)
    scale = tl.load(scales)
    gate = scale * tl.load(b_gate + latent)
    shift = scale * tl.load(b_mag + latent)
    steep = tl.load(mag_scale + latent)
    # One entry after the other.
    for _ in range(0, total):
        found, bits = next_marked(bits, BITS)
        row = first * BITS + found
        value = scale * product_of(x + row * depth, W + latent * depth, depth, TILE)
        _store(both, row, rows, latents, latent, True, value + gate, steep * value + shift, True)


@triton.jit
def gated_back_kernel(
    both: tl.tensor,
    along: tl.tensor,
    mag_scale: tl.tensor,
    price: tl.tensor,
    fit: tl.tensor,
    scales: tl.tensor,
    error_scales: tl.tensor,
    sums: tl.tensor,
    rows: int,
    latents: int,
    per_error: float,
    EACH: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Some columns of `EACH` rows a program."""
    part = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < latents
    steep = tl.load(mag_scale + column, mask=inside, other=0.0)
    own_price = tl.load(price + column, mask=inside, other=0.0)
    own_fit = tl.load(fit + column, mask=inside, other=0.0)
    inverse = tl.load(scales + 1)
    each_error = per_error * tl.load(error_scales + 1)
    gate_sum = tl.zeros([COLUMNS], tl.float32)
    mag_sum = tl.zeros([COLUMNS], tl.float32)
    along_f = tl.zeros([COLUMNS], tl.float32)
    open_sum = tl.zeros([COLUMNS], tl.float32)
    fired = tl.zeros([COLUMNS], tl.float32)
    # One row after the other.
    for step in range(0, tl.minimum(rows - part * EACH, EACH)):
        row = part * EACH + step
        at = row * latents + column
        at_open = (rows + row) * latents + column
        f = inverse * tl.load(both + at, mask=inside, other=0.0).to(tl.float32)
        opened = inverse * tl.load(both + at_open, mask=inside, other=0.0).to(tl.float32)
        by_f = each_error * tl.load(along + at, mask=inside, other=0.0).to(tl.float32)
        by_open = each_error * tl.load(along + at_open, mask=inside, other=0.0).to(tl.float32)
        # Where an activation is not a number, so is its gradient.
        by_f = tl.where(f <= 0.0, 0.0, by_f + (f - f))
        by_gate = tl.where(opened <= 0.0, 0.0, by_open + own_price + (opened - opened))
        low = own_fit * (steep * by_f + by_gate)
        tl.store(along + at, low.to(along.dtype.element_ty), mask=inside)
        gate_sum += by_gate
        mag_sum += by_f
        along_f += by_f * f
        open_sum += opened
        fired += (f > 0.0).to(tl.float32)
    at_sums = sums + part * 5 * latents + column
    tl.store(at_sums, gate_sum, mask=inside)
    tl.store(at_sums + latents, mag_sum, mask=inside)
    tl.store(at_sums + 2 * latents, along_f, mask=inside)
    tl.store(at_sums + 3 * latents, open_sum, mask=inside)
    tl.store(at_sums + 4 * latents, fired, mask=inside)
