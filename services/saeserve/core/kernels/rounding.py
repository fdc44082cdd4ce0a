"""How far a product of rounded factors can lie from the exact one.

Factors are rounded to bfloat16, their products summed in float32, and the sum is rounded once more.
With w = w' + dw and x = x' + dx, where w' and x' are the rounded ones, <w, x> - <w', x'> =
<dw, x'> + <w, dx>, at most |dw| |x'| + |w| |dx| by Cauchy and Schwarz. All four norms are computed
from the factors at hand, so the bound is proven for any rows, and twice as tight as the one from
the unit of rounding alone. Shape suffixes: B rows, D width, F latents, X rows of either factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.kernels.compiled import SHARES, Array, arrays, kernel, prange, usable
from saeserve.core.kernels.lanes import round_row

UNIT = 1.01 * 2**-8
"""What rounding a number to bfloat16 changes at most, as a share of the rounded one."""
SAFETY = 1.001
"""On norms, which are rounded themselves."""
SUM_UNIT = 2**-24
"""What each addition in float32 changes at most, as a share of its result."""


@dataclass(frozen=True)
class Rounded:
    """A factor in bfloat16."""

    low_XD: Tensor
    norm_X: Tensor
    """Norm of each row before it was rounded, and at most `SAFETY` times as much."""
    lost_X: Tensor
    """The same of what rounding took away."""

    @classmethod
    def of(cls, rows_XD: Tensor) -> Rounded:
        """Round each row to the nearest bfloat16, ties to even."""
        if not _in_one_pass(rows_XD):
            low_XD = rows_XD.to(torch.bfloat16)
            lost_XD = rows_XD - low_XD.to(rows_XD.dtype)
            return cls(low_XD, SAFETY * _norm(rows_XD), SAFETY * _norm(lost_XD))
        low_XD, squares_2X = _memory(rows_XD)
        _round_rows(*arrays(rows_XD, low_XD, squares_2X))
        return cls(low_XD, *(SAFETY * squares_2X.sqrt().to(rows_XD)))

    @classmethod
    def centred(cls, rows_XD: Tensor, centre_D: Tensor) -> tuple[Tensor, Rounded]:
        """Rows less their centre, and those rounded, in one pass where that can be."""
        if not _in_one_pass(rows_XD, centre_D):
            centred_XD = rows_XD - centre_D
            return centred_XD, cls.of(centred_XD)
        low_XD, squares_2X = _memory(rows_XD)
        centred_XD = torch.empty_like(rows_XD)
        _centre_rows(*arrays(rows_XD, centre_D, centred_XD, low_XD, squares_2X))
        return centred_XD, cls(low_XD, *(SAFETY * squares_2X.sqrt().to(rows_XD)))


@dataclass(frozen=True)
class Errors:
    """Before its result is rounded, entry (b, i) errs by at most
    lost[i] norm[b] + norm[i] lost[b] + bias[i]."""

    norm_B: Tensor
    lost_B: Tensor
    norm_F: Tensor
    lost_F: Tensor
    bias_F: Tensor

    @classmethod
    def of(cls, x: Rounded, W: Rounded, b_F: Tensor, b_low_F: Tensor) -> Errors:
        """Error bounds of x W^T + b, computed from x and W in bfloat16 and the bias `b_low_F`.

        Float32 sums of the product and of what it is compared with are counted too.
        """
        additions = (1.125 * x.low_XD.shape[1] + 8) * SUM_UNIT
        lost_F = (1 + UNIT) * W.lost_X + additions * W.norm_X
        bias_F = (b_F - b_low_F.to(b_F)).abs() + 4 * SUM_UNIT * b_F.abs()
        return cls(x.norm_X, x.lost_X, W.norm_X, lost_F, bias_F)

    def largest(self) -> Tensor:
        """A bound for all entries of each row: [B]."""
        lost, norm, bias = self.lost_F.amax(), self.norm_F.amax(), self.bias_F.amax()
        return lost * self.norm_B + norm * self.lost_B + bias


def highest(rounded: Tensor, errors: Tensor) -> Tensor:
    """What an exact value is at most that became `rounded`."""
    return rounded + UNIT * rounded.abs() + errors


def lowest_rounded(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """What numbers from `exact` on are at least when they are rounded to `dtype`."""
    if dtype != torch.bfloat16:
        return exact
    return torch.where(exact > 0, exact / (1 + UNIT), exact / (1 - UNIT))


def _in_one_pass(*tensors: Tensor) -> bool:
    return usable(*tensors) and all(each.dtype == torch.float32 for each in tensors)


def _memory(rows_XD: Tensor) -> tuple[Tensor, Tensor]:
    squares_2X = torch.empty(2, rows_XD.shape[0], dtype=torch.float64)
    return torch.empty_like(rows_XD, dtype=torch.bfloat16), squares_2X


def _norm(rows_XD: Tensor) -> Tensor:
    """Scaled by the largest, so that squares of small numbers do not vanish."""
    largest_X1 = rows_XD.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(rows_XD.dtype).tiny)
    scaled_XD = rows_XD / largest_X1
    return scaled_XD.square().sum(dim=1).sqrt() * largest_X1.squeeze(1)


@kernel
def _round_rows(rows_XD: Array, low_XD: Array, squares_2X: Array) -> None:
    """low = w' in bfloat16 of each row w, squares = <w, w> and <w - w', w - w'> in float64, where
    squares of small numbers do not vanish."""
    rows = rows_XD.shape[0]
    for share in prange(SHARES):
        for row in range(rows * share // SHARES, rows * (share + 1) // SHARES):
            squares_2X[0, row], squares_2X[1, row] = round_row(rows_XD[row], low_XD[row])


@kernel
def _centre_rows(
    rows_XD: Array, centre_D: Array, centred_XD: Array, low_XD: Array, squares_2X: Array
) -> None:
    """centred = w - centre of each row w, and what `_round_rows` makes of it."""
    rows = rows_XD.shape[0]
    for share in prange(SHARES):
        for row in range(rows * share // SHARES, rows * (share + 1) // SHARES):
            for column in range(centre_D.size):
                centred_XD[row, column] = rows_XD[row, column] - centre_D[column]
            squares_2X[0, row], squares_2X[1, row] = round_row(centred_XD[row], low_XD[row])
