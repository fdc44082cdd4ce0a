"""K7 for ReLU: activations after the encoder's product, gradients after the decoder's.

    v = s x W_enc^T;  f' = s f = max(v + s b, 0), with the sign as in float32 (`choice`)
    with a = <W_dec,i, r_b> in units of 1 / s_r, and the price p_i of an activation:
    dh = [f > 0] (c a + p_i), c = -2 / B;  low = float16(q_i dh)
    sums over rows: of dh, of f, of [f > 0]

ReLU's derivative jumps at 0, so the sign of a pre-activation matters as a choice does: entries on
the wrong side would change the gradients by a hundredth.

Bytes of B rows and m latents, e an entry (2 low, 4 float32): 2 e B m, with U marked entries 2 U,
and 3 e B m and 12 m of sums for each `BACK_ROWS` rows. FLOPs: 8 B m, 2 d U and 8 B m. A launch each
(float32: no second one); sums have one order.
"""

from __future__ import annotations

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

SUMS = 3
BACK_ROWS = 64
BACK_COLUMNS = 128
BACK_WARPS = 1


def fire(x: Operand, W_enc: Operand, b_F: Tensor) -> Tensor:
    """Activations [B, F] in units of 1 / s, in the products' type."""
    f_BF = rounded_product(x.low_XD, W_enc.low_XD.T)
    rows, latents = f_BF.shape
    marks_WF = choice.marks_of(x, latents)
    launch(
        relu_fire_kernel,
        choice.grid_of(rows, latents),
        (
            *(f_BF, marks_WF, b_F, *W_enc.norms, *x.norms, x.scales),
            *(rows, latents, x.additions, x.likely_additions),
        ),
        choice.work_of(x, latents, 2 * f_BF.element_size(), sums=0, vectors=5),
        **choice.first_options(x),
    )
    if not x.exact:
        launch(
            relu_settle_kernel,
            choice.settling_grid_of(rows, latents),
            (
                *(f_BF, marks_WF, x.rows_XD, W_enc.rows_XD, b_F, x.scales),
                *(marks_WF.shape[0], latents, x.rows_XD.shape[1]),
            ),
            choice.settling_work_of(x, latents, 2, sums=0),
            **choice.second_options(),
        )
    return f_BF


def back(
    f_BF: Tensor,
    along_BF: Tensor,
    scales: tuple[Tensor, Tensor],
    price_F: Tensor,
    fit_F: Tensor,
    per_error: float,
) -> Tensor:
    """Write q dh over `along_BF`; returns the sums of dh, f and [f > 0]: [3, F].

    `scales` are those of the input and of the residual, `fit_F` is q.
    """
    rows, latents = f_BF.shape
    parts = triton.cdiv(rows, BACK_ROWS)
    sums_PSF = price_F.new_empty(parts, SUMS, latents)
    launch(
        relu_back_kernel,
        (parts, triton.cdiv(latents, BACK_COLUMNS)),
        (f_BF, along_BF, price_F, fit_F, *scales, sums_PSF, rows, latents, per_error),
        Work(
            bytes=rows * latents * 3 * f_BF.element_size() + 4 * latents * parts * (SUMS + 2),
            flops=8 * rows * latents,
        ),
        EACH=BACK_ROWS,
        COLUMNS=BACK_COLUMNS,
        num_warps=BACK_WARPS,
    )
    return sums_PSF.sum(0)


@triton.jit
def relu_fire_kernel(
    values: tl.tensor,
    marks: tl.tensor,
    b: tl.tensor,
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
    """Some columns of `EACH` rows a program: activations over the product, unsure ones marked."""
    part = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < latents
    bias = tl.load(scales) * tl.load(b + column, mask=inside, other=0.0)
    norm_of, lost_of, fourth_of, lost_fourth_of = norms_at(
        weight_norms, weight_lost, weight_fourths, weight_lost_fourths, column, inside
    )
    first_row = part * EACH
    end = tl.minimum(first_row + EACH, rows)
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
            if LOW:
                m = rounding_of(
                    value,
                    tl.abs(bias),
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
                # Asked this way round, not a number is unsure.
                unsure = inside & ((tl.abs(value + bias) > m) == 0)
                bits |= tl.where(unsure, mark, 0)
                mark <<= 1
            at = values + row * latents + column
            tl.store(at, kept_positive(value + bias, LOW), mask=inside)
        if LOW:
            tl.store(marks + start // BITS * latents + column, bits, mask=inside)


@triton.jit
def relu_settle_kernel(
    values: tl.tensor,
    marks: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    scales: tl.tensor,
    words: int,
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
    bias = scale * tl.load(b + latent)
    # One entry after the other.
    for _ in range(0, total):
        found, bits = next_marked(bits, BITS)
        row = first * BITS + found
        exact = scale * product_of(x + row * depth, W + latent * depth, depth, TILE)
        tl.store(values + row * latents + latent, kept_positive(exact + bias, True))


@triton.jit
def relu_back_kernel(
    f: tl.tensor,
    along: tl.tensor,
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
    own_price = tl.load(price + column, mask=inside, other=0.0)
    own_fit = tl.load(fit + column, mask=inside, other=0.0)
    inverse = tl.load(scales + 1)
    each_error = per_error * tl.load(error_scales + 1)
    shift = tl.zeros([COLUMNS], tl.float32)
    total = tl.zeros([COLUMNS], tl.float32)
    fired = tl.zeros([COLUMNS], tl.float32)
    # One row after the other.
    for step in range(0, tl.minimum(rows - part * EACH, EACH)):
        row = part * EACH + step
        at = row * latents + column
        value = tl.load(f + at, mask=inside, other=0.0).to(tl.float32)
        by_error = each_error * tl.load(along + at, mask=inside, other=0.0).to(tl.float32)
        # Where f is not a number, so is its gradient.
        gradient = tl.where(value <= 0.0, 0.0, by_error + own_price + (value - value))
        tl.store(along + at, (own_fit * gradient).to(along.dtype.element_ty), mask=inside)
        shift += gradient
        total += inverse * value
        fired += (value > 0.0).to(tl.float32)
    at_sums = sums + part * 3 * latents + column
    tl.store(at_sums, shift, mask=inside)
    tl.store(at_sums + latents, total, mask=inside)
    tl.store(at_sums + 2 * latents, fired, mask=inside)
