"""K0: rows centred, rounded to a low precision, and the norms that bound what that loses.

    centred = x - b;  low = float16(centred);  |centred|;  |centred - low|;  4-norms of both

Bytes of B rows of width d: 4 B d read, 6 B d written (4 B d fewer where nothing is subtracted).
FLOPs: 8 B d. One launch. A program takes a row, which stays in registers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu import shadows
from saeserve.core.gpu.expected import BLOCK, DEVIATIONS
from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu.shadows import LOW as LOW
from saeserve.core.gpu.shadows import Shadow
from saeserve.core.gpu.update import block_of, store_norms
from saeserve.core.kernels.rounding import SUM_UNIT

ROWS = 256
"""Rows of which a program bounds the errors."""


@dataclass(frozen=True)
class Rows:
    """Rows of a batch, and their copy for products in low precision; without one all is exact."""

    rows_BD: Tensor
    copy: Shadow | None


def centred(x_BD: Tensor, b_D: Tensor) -> tuple[Tensor, Shadow]:
    """x - b in float32, and its low-precision copy."""
    centred_BD = torch.empty_like(x_BD)
    copy = Shadow.like(centred_BD)
    _launch(x_BD, b_D, centred_BD, copy)
    return centred_BD, copy


def rounded(x_BD: Tensor) -> Shadow:
    """The low-precision copy of rows that are used once."""
    copy = Shadow.like(x_BD)
    _launch(x_BD, None, x_BD, copy)
    return copy


def shadow_of(weights_FD: Tensor) -> Shadow:
    """The copy of a matrix as it is now: the one that the optimiser's pass wrote, or a new one."""
    copy = shadows.of(weights_FD)
    if not copy.holds(weights_FD):
        _launch(weights_FD, None, weights_FD, copy)
        copy.made_of(weights_FD)
    return copy


def renew(parameters: Iterable[Tensor]) -> None:
    """Make the copies again that are out of date; a parameter without one is left without."""
    for tensor in parameters:
        if shadows.known(tensor) is not None:
            shadow_of(tensor)


def largest_errors(x: Shadow, W: Shadow, b_F: Tensor) -> Tensor:
    """How far x W^T + b in low precision can be from the exact one before its result is rounded: a
    bound for all entries of each row, [B], proven for any rows (`kernels.rounding`).

    A rounded row is at most |x| + |x - low| long, also where numbers are below the normal ones.
    Tensor cores may cut off what they add, which loses twice what rounding it would.
    """
    return _errors(x, W, b_F, likely=False)


def likely_errors(x: Shadow, W: Shadow, b_F: Tensor) -> Tensor:
    """The same as `largest_errors`, but for a chance of 2 exp(-DEVIATIONS^2 / 2) = 3e-8 an entry:
    rounding errors of different numbers are taken to be independent and without a mean, as in
    Higham and Mary 2019 (A new approach to probabilistic rounding error analysis).

    What rounding W costs an entry is sum_j x_j e_ij. By Hoeffding's inequality that is at most
    DEVIATIONS (sum_j x_j^2 e_ij^2)^(1/2), and by Cauchy and Schwarz the root is at most
    |x|_4 |e_i|_4, in 4-norms; the same for what rounding x costs. Sums of d products lose as many
    independent parts, and what tensor cores cut off the running sum of BLOCK products at a time
    adds up. Never more than the proven bound.
    """
    return _errors(x, W, b_F, likely=True)


def _errors(x: Shadow, W: Shadow, b_F: Tensor, *, likely: bool) -> Tensor:
    rows, width = x.low_FD.shape
    most_4, bias = W.norms_4F.amax(1), b_F.abs().amax()
    errors_B = most_4.new_empty(rows)
    proven = 2 * (1.125 * width + 8) * SUM_UNIT
    usual = 2 * (width / BLOCK + DEVIATIONS * width**0.5 + 8) * SUM_UNIT
    launch(
        errors_kernel,
        (triton.cdiv(rows, ROWS),),
        (x.norms_4F, most_4, bias, errors_B, rows, proven, usual, float(DEVIATIONS)),
        Work(bytes=20 * rows, flops=12 * rows),
        LIKELY=likely,
        BLOCK=ROWS,
    )
    return errors_B


def _launch(rows_XD: Tensor, b_D: Tensor | None, centred_XD: Tensor, copy: Shadow) -> None:
    rows, width = rows_XD.shape
    numbers = rows * width
    bias = rows_XD if b_D is None else b_D
    launch(
        round_kernel,
        (rows,),
        (rows_XD, bias, centred_XD, copy.low_FD, *copy.norms_4F, width),
        Work(bytes=(6 if b_D is None else 10) * numbers, flops=8 * numbers),
        CENTRE=b_D is not None,
        **block_of(width),
    )


@triton.jit
def round_kernel(
    rows: tl.tensor,
    bias: tl.tensor,
    centred_rows: tl.tensor,
    low: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    fourths: tl.tensor,
    lost_fourths: tl.tensor,
    width: int,
    CENTRE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    here = column < width
    at = row * width + column
    values = tl.load(rows + at, mask=here, other=0.0)
    if CENTRE:
        values -= tl.load(bias + column, mask=here, other=0.0)
        tl.store(centred_rows + at, values, mask=here)
    rounded = values.to(tl.float16)
    tl.store(low + at, rounded, mask=here)
    store_norms(values, rounded, norms + row, lost + row, fourths + row, lost_fourths + row)


@triton.jit
def errors_kernel(
    norms: tl.tensor,
    most: tl.tensor,
    largest_bias: tl.tensor,
    errors: tl.tensor,
    rows: int,
    proven: float,
    usual: float,
    deviations: float,
    LIKELY: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Bounds of some rows, from their norms and the largest ones of the weights."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = row < rows
    norm = tl.load(norms + row, mask=here, other=0.0)
    lost = tl.load(norms + rows + row, mask=here, other=0.0)
    most_norm, most_lost = tl.load(most), tl.load(most + 1)
    # 2^-11 and 2^-25 by rounding it, and 8 2^-24 by adding it. Asked this way round, not a number
    # and what float16 cannot hold make all bounds infinite.
    bias = tl.load(largest_bias)
    bias = tl.where(bias < 65504.0, 4.8876e-4 * bias + 3.0e-8, float("inf"))
    found = (norm + lost) * (most_lost + proven * most_norm) + lost * most_norm
    if LIKELY:
        from_W = tl.load(norms + 2 * rows + row, mask=here, other=0.0) * tl.load(most + 3)
        from_x = tl.load(norms + 3 * rows + row, mask=here, other=0.0) * tl.load(most + 2)
        both = deviations * tl.sqrt(from_W * from_W + from_x * from_x)
        # Twice what is lost of both factors at once.
        both += usual * (norm + lost) * most_norm + 2.0 * lost * most_lost
        found = tl.where(both < found, both, found)
    tl.store(errors + row, 1.001 * (found + bias), mask=here)
