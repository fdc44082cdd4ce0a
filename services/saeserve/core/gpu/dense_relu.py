"""K7 for ReLU: activations after the encoder's product, gradients after the decoder's.

    v = s x W_enc^T;  f' = s f = max(v + s b, 0), with the sign as in float32 (`dense_choice`)
    with a = <W_dec,i, r_b> in units of 1 / s_r, and the price p_i of an activation:
    dh = [f > 0] (c a + p_i), c = -2 / B;  low = float16(q_i dh)
    sums over rows: of dh, of f, of [f > 0]

ReLU's derivative jumps at 0, so the sign of a pre-activation matters as a choice does: entries on
the wrong side would change the gradients by a hundredth.

Bytes of B rows and m latents, e an entry (2 low, 4 float32): 2 e B m and 3 e B m, and 12 m of sums
for each `EACH` rows. FLOPs: 8 B m and 8 B m. A launch each; sums have one order.
"""

from __future__ import annotations

import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu import dense_choice as choice
from saeserve.core.gpu.dense_choice import computed_again, kept_positive, margin, proven, usual
from saeserve.core.gpu.dense_rows import Operand, rounded_product
from saeserve.core.gpu.launch import Work, launch

SUMS = 3
BACK_ROWS = 64
BACK_COLUMNS = 128
BACK_WARPS = 1


def fire(x: Operand, W_enc: Operand, b_F: Tensor) -> Tensor:
    """Activations [B, F] in units of 1 / s, in the products' type."""
    f_BF = rounded_product(x.low_XD, W_enc.low_XD.T)
    rows, latents = f_BF.shape
    launch(
        relu_fire_kernel,
        choice.grid_of(rows, latents),
        (
            *(f_BF, x.rows_XD, W_enc.rows_XD, b_F, W_enc.norm_X, W_enc.lost_X),
            *(x.norm_X, x.lost_X, x.most_X, x.scales),
            *(rows, latents, x.rows_XD.shape[1], x.additions, x.usual_additions),
        ),
        choice.work_of(x, latents, 2 * f_BF.element_size(), sums=0, vectors=3),
        LOW=not x.exact,
        EACH=choice.EACH,
        COLUMNS=choice.COLUMNS,
        GROUP=choice.GROUP,
        TILE=choice.TILE,
        num_warps=choice.WARPS,
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
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    weight_norms: tl.tensor,
    weight_lost: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    largest: tl.tensor,
    scales: tl.tensor,
    rows: int,
    latents: int,
    depth: int,
    additions: float,
    usual_additions: float,
    LOW: tl.constexpr,
    EACH: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Some columns of `EACH` rows a program: activations over the product."""
    first_row = tl.program_id(0).to(tl.int64) * EACH
    first = tl.program_id(1) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    inside = column < latents
    scale = tl.load(scales)
    bias = scale * tl.load(b + column, mask=inside, other=0.0)
    weight_norm = tl.load(weight_norms + column, mask=inside, other=0.0)
    lost_of_weight = tl.load(weight_lost + column, mask=inside, other=0.0)
    # One row after the other.
    for step in range(0, tl.minimum(rows - first_row, EACH)):
        row = first_row + step
        at = row * latents + column
        value = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
        if LOW:
            norm = tl.load(norms + row)
            row_lost = tl.load(lost + row)
            most = tl.load(largest + row)
            loss = proven(norm, row_lost, weight_norm, lost_of_weight, additions)
            six = usual(norm, most, weight_norm, lost_of_weight, usual_additions)
            m = margin(value, tl.abs(bias), tl.minimum(loss, six))
            # Asked this way round, not a number is unsure.
            unsure = inside & ((tl.abs(value + bias) > m) == 0)
            value = computed_again(
                value, unsure, first, x + row * depth, W, depth, scale, COLUMNS, GROUP, TILE
            )
        tl.store(values + at, kept_positive(value + bias, LOW), mask=inside)


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
