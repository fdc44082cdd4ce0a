"""K0: rows centred, rounded to a low precision, and the norms that bound what that loses.

    centred = x - b;  low = float16(centred);  |centred|;  |centred - low|

Bytes of B rows of width d: 4 B d read, 6 B d written (4 B d fewer where nothing is subtracted).
FLOPs: 6 B d. One launch. A program takes a row, which stays in registers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu import shadows
from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu.shadows import LOW as LOW
from saeserve.core.gpu.shadows import Shadow
from saeserve.core.gpu.update import block_of, rounding_norms
from saeserve.core.kernels.rounding import SAFETY, SUM_UNIT, Errors


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


def largest_errors(x: Shadow, W: Shadow, b_F: Tensor, b_low_F: Tensor) -> Tensor:
    """How far x W^T + b in low precision can be from the exact one before its result is rounded: a
    bound for all entries of each row, [B] (`kernels.rounding`).

    A rounded row is at most |x| + |x - low| long, also where numbers are below the normal ones.
    Tensor cores may cut off what they add, which loses twice what rounding it would.
    """
    additions = 2 * (1.125 * x.low_FD.shape[1] + 8) * SUM_UNIT
    return (
        SAFETY
        * Errors(
            norm_B=x.norm_F + x.lost_F,
            lost_B=x.lost_F,
            norm_F=W.norm_F,
            lost_F=W.lost_F + additions * W.norm_F,
            bias_F=(b_F - b_low_F.to(b_F)).abs() + 8 * SUM_UNIT * b_F.abs(),
        ).largest()
    )


def _launch(rows_XD: Tensor, b_D: Tensor | None, centred_XD: Tensor, copy: Shadow) -> None:
    rows, width = rows_XD.shape
    numbers = rows * width
    bias = rows_XD if b_D is None else b_D
    launch(
        round_kernel,
        (rows,),
        (rows_XD, bias, centred_XD, copy.low_FD, copy.norm_F, copy.lost_F, width),
        Work(bytes=(6 if b_D is None else 10) * numbers, flops=6 * numbers),
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
    norm_of_row, lost_of_row = rounding_norms(values, rounded)
    tl.store(low + at, rounded, mask=here)
    tl.store(norms + row, norm_of_row)
    tl.store(lost + row, lost_of_row)
