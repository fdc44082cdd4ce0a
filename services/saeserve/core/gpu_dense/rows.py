"""Operands of the dense architectures' products: rows scaled by a power of two and rounded.

    s = 2^(5 - e) for the largest number |x| of all rows in [2^e, 2^(e + 1))
    low = float16(s x);  |s x_b|;  |s x_b - low_b|;  4-norms of both
    r_b = y_b - b_dec - a_b / s, from the decoder's product a, with |r_b|^2 and its largest number

So float16 holds rows of any size: the largest number becomes 32 to 64, and what is lost below the
normal numbers is 2^-30 of it. What does not fit all the same, as products with very long rows of
weights, is infinite, and shows in the loss or in a gradient. Scaling by powers of two rounds
nothing. Where the products are float32, s = 1 and nothing is rounded.

Bytes of B rows of width d: 4 B d for the largest number of an input, 6 B d to round; 12 B d for the
errors, whose largest number is known then. FLOPs: 9 B d and 6 B d. Launches: torch's for the
largest number, two to round, one for the errors. A program takes a row, in tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu import rows
from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu.scales import power_of_two
from saeserve.core.gpu.shadows import LOW as LOW
from saeserve.core.kernels.rounding import SUM_UNIT

EXPONENT = 5
"""The largest number of all rows is scaled to at least 2 to the power of this."""
TILE = 512
WARPS = 2
CHUNK = 1024
"""Numbers that are compared at once."""
LARGEST_GRADIENT = 2.0**13
SMALLEST_BOUND = 1e-30


@dataclass(frozen=True)
class Operand:
    """Rows as products take them."""

    rows_XD: Tensor
    """float32, as they were given"""
    low_XD: Tensor
    """s times as much in float16, or `rows_XD` itself"""
    scales: Tensor
    """s and 1 / s"""
    norm_X: Tensor
    """|s x| of each row"""
    lost_X: Tensor
    """|s x - low| of each row"""
    fourth_X: Tensor
    """4-norm of s x of each row"""
    lost_fourth_X: Tensor
    """4-norm of s x - low of each row"""

    @property
    def norms(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What bounds the errors of products, in the order of the kernels' arguments."""
        return self.norm_X, self.lost_X, self.fourth_X, self.lost_fourth_X

    @property
    def exact(self) -> bool:
        """Whether nothing was rounded."""
        return self.low_XD.dtype == torch.float32

    @property
    def additions(self) -> float:
        """What the sums of a product may lose, as a share of the product of two norms. Tensor cores
        may cut off what they add, which loses twice what rounding it would."""
        return 2 * (1.125 * self.rows_XD.shape[1] + 8) * SUM_UNIT

    @property
    def likely_additions(self) -> float:
        """What they are likely to lose at most, as a share of the largest running sum
        (`rows.likely_errors`)."""
        width = self.rows_XD.shape[1]
        return 2 * (width / rows.BLOCK + rows.DEVIATIONS * width**0.5 + 8) * SUM_UNIT


class Errors(NamedTuple):
    """Errors of reconstructions."""

    residual: Operand
    squares_X: Tensor
    """|r|^2 of each row"""


def scaled(rows_XD: Tensor, encoder_dtype: torch.dtype) -> Operand:
    """Rows of a batch for products in float32, or else in `LOW`."""
    if encoder_dtype == torch.float32:
        return _unscaled(rows_XD)
    largest: Tensor = cast(Any, torch.linalg).vector_norm(rows_XD, ord=float("inf"))
    return _rounded(rows_XD, largest)


def weights(weights_FD: Tensor, encoder_dtype: torch.dtype) -> Operand:
    """A dictionary for products in float32, or else its copy in `LOW`, which has no scale."""
    if encoder_dtype == torch.float32:
        return _unscaled(weights_FD)
    copy = rows.shadow_of(weights_FD)
    scales = torch.ones(2, device=weights_FD.device)
    return Operand(weights_FD, copy.low_FD, scales, *copy.norms_4F)


def errors(
    decoded_XO: Tensor, scales: Tensor, target_BO: Tensor, b_O: Tensor, encoder_dtype: torch.dtype
) -> Errors:
    """Write y - b_dec - a / s over the decoder's product a, and scale it for the next products.

    There may be several reconstructions of one target, one below the other.
    """
    count, width = decoded_XO.shape
    squares_X, largest_X = decoded_XO.new_empty(2, count)
    launch(
        error_kernel,
        (count,),
        (decoded_XO, target_BO, b_O, scales, squares_X, largest_X, target_BO.shape[0], width),
        Work(bytes=count * (12 * width + 8), flops=6 * count * width),
        TILE=TILE,
        num_warps=WARPS,
    )
    exact = encoder_dtype == torch.float32
    residual = _unscaled(decoded_XO) if exact else _rounded(decoded_XO, largest_X)
    return Errors(residual, squares_X)


def _rounded(rows_XD: Tensor, largest: Tensor) -> Operand:
    count, width = rows_XD.shape
    low_XD = torch.empty_like(rows_XD, dtype=LOW)
    norms_4X = rows_XD.new_empty(4, count)
    scales, found = rows_XD.new_empty(2), largest.numel()
    launch(
        scale_kernel,
        (1,),
        (largest, scales, found),
        Work(bytes=4 * found + 8),
        EXPONENT=EXPONENT,
        CHUNK=CHUNK,
    )
    launch(
        scaled_kernel,
        (count,),
        (rows_XD, low_XD, *norms_4X, scales, width),
        Work(bytes=count * (6 * width + 16), flops=9 * count * width),
        TILE=TILE,
        num_warps=WARPS,
    )
    return Operand(rows_XD, low_XD, scales, *norms_4X)


def _unscaled(rows_XD: Tensor) -> Operand:
    ones, unused_X = torch.ones(2, device=rows_XD.device), rows_XD[:, 0]
    return Operand(rows_XD, rows_XD, ones, *(unused_X,) * 4)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply two matrices of one type into float32, sums included."""
    if a.dtype == torch.float32:
        return a @ b
    if a.device.type == "cpu":
        # Triton's interpreter: float32 holds products of float16 exactly, as tensor cores do.
        return a.float() @ b.float()
    made: Tensor = cast(Any, torch).mm(a, b, out_dtype=torch.float32)
    return made


def rounded_product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply two matrices into their own type; sums are float32."""
    if a.device.type != "cpu":
        return torch.mm(a, b, out=out)
    made = product(a, b).to(a.dtype)
    return made if out is None else out.copy_(made)


def fit_of(bound_F: Tensor, residual: Operand) -> Tensor:
    """q: what brings gradients of at most `bound_F` below 2^13, as float16 holds them; 1 where they
    stay float32. What is below 2^-37 of its bound is lost."""
    if residual.exact:
        return torch.ones_like(bound_F)
    return LARGEST_GRADIENT / bound_F.clamp_min(SMALLEST_BOUND)


@triton.jit
def scale_kernel(
    largest: tl.tensor, scales: tl.tensor, count: int, EXPONENT: tl.constexpr, CHUNK: tl.constexpr
) -> None:
    """The power of two and its inverse, 1 where all numbers are 0 or not finite."""
    most = tl.zeros([CHUNK], tl.float32)
    # Numbers that are not finite say nothing about sizes.
    for start in range(0, count, CHUNK):
        at = start + tl.arange(0, CHUNK)
        number = tl.load(largest + at, mask=at < count, other=0.0)
        most = tl.maximum(most, tl.where(number < float("inf"), number, 0.0))
    scale, inverse = power_of_two(tl.max(most, 0), EXPONENT)
    tl.store(scales, scale)
    tl.store(scales + 1, inverse)


@triton.jit
def scaled_kernel(
    rows: tl.tensor,
    low: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    fourths: tl.tensor,
    lost_fourths: tl.tensor,
    scales: tl.tensor,
    width: int,
    TILE: tl.constexpr,
) -> None:
    """A row a program."""
    row = tl.program_id(0).to(tl.int64)
    scale = tl.load(scales)
    whole = tl.zeros([TILE], tl.float32)
    error = tl.zeros([TILE], tl.float32)
    fourth = tl.zeros([TILE], tl.float32)
    error_fourth = tl.zeros([TILE], tl.float32)
    # Tiles of columns.
    for start in range(0, width, TILE):
        column = start + tl.arange(0, TILE)
        here = column < width
        values = scale * tl.load(rows + row * width + column, mask=here, other=0.0)
        rounded = values.to(tl.float16)
        tl.store(low + row * width + column, rounded, mask=here)
        # Times 2^11, so that powers of what is lost do not vanish.
        left = 2048.0 * (values - rounded.to(tl.float32))
        square, left_square = values * values, left * left
        whole += square
        error += left_square
        fourth += square * square
        error_fourth += left_square * left_square
    tl.store(norms + row, tl.sqrt(tl.sum(whole, 0)))
    tl.store(lost + row, 4.8828125e-4 * tl.sqrt(tl.sum(error, 0)))
    tl.store(fourths + row, tl.sqrt(tl.sqrt(tl.sum(fourth, 0))))
    tl.store(lost_fourths + row, 4.8828125e-4 * tl.sqrt(tl.sqrt(tl.sum(error_fourth, 0))))


@triton.jit
def error_kernel(
    decoded: tl.tensor,
    target: tl.tensor,
    bias: tl.tensor,
    scales: tl.tensor,
    squares: tl.tensor,
    largest: tl.tensor,
    targets: int,
    width: int,
    TILE: tl.constexpr,
) -> None:
    """A row a program."""
    row = tl.program_id(0).to(tl.int64)
    inverse = tl.load(scales + 1)
    square = tl.zeros([TILE], tl.float32)
    most = tl.zeros([TILE], tl.float32)
    # Tiles of columns.
    for start in range(0, width, TILE):
        column = start + tl.arange(0, TILE)
        here = column < width
        at = row * width + column
        error = tl.load(target + (row % targets) * width + column, mask=here, other=0.0)
        error -= tl.load(bias + column, mask=here, other=0.0)
        error -= inverse * tl.load(decoded + at, mask=here, other=0.0)
        tl.store(decoded + at, error, mask=here)
        square += error * error
        most = tl.maximum(most, tl.abs(error))
    tl.store(squares + row, tl.sum(square, 0))
    tl.store(largest + row, tl.max(most, 0))
