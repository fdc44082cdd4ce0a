"""Pre-activations in blocks of rows that stay in the cache, and what is certain about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.ops.rounding import UNIT, Errors

ROWS = 256
"""Rows of a block: enough for the GEMM to run at full speed."""
SAFETY = 1.1
"""On what rounding a result changes, for levels that are rounded themselves."""


@dataclass(frozen=True)
class Block:
    """Pre-activations of rows first .. last: [R, F]. From a low-precision GEMM they come without
    bias, and each lies within slack[i] scale[r] of the exact one before it is rounded itself."""

    first: int
    last: int
    h_RF: Tensor
    scale_R: Tensor


class Encoder:
    """h = x W^T + b, its GEMM in `dtype` (float32 stands for the parameters' own type).

    What a GEMM in bfloat16 errs by is proven by `rounding`'s bound, whatever the rows: at most
    lost[i] norm[b] + norm[i] lost[b], which is at most norm[i] (lost[b] + norm[b] max lost / norm)
    with the maximum over latents. So it is a product of two numbers, which is what kernels are
    given. Rounding takes nearly the same share of every row of weights: little is lost by it.
    """

    def __init__(self, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, dtype: torch.dtype) -> None:
        self.x_BD, self.W_FD, self.b_F = x_BD, W_FD, b_F
        self.exact = dtype in (torch.float32, W_FD.dtype)
        """Whether h is computed in the parameters' type, bias included."""
        self._dtype = W_FD.dtype if self.exact else dtype
        self._low_FD = W_FD.to(self._dtype)
        # What rounding a result changes at most, as a share of it.
        self.unit = 0.0 if self.exact else SAFETY * UNIT
        self.slack_F, self.bias_error_F = torch.zeros_like(b_F), torch.zeros_like(b_F)
        self._scale_B = x_BD.new_ones(x_BD.shape[0])
        if not self.exact:
            self._bound(Errors.of(x_BD, W_FD, b_F, b_F))
        self._kept_BF: Tensor | None = None

    def _bound(self, errors: Errors) -> None:
        # Rounding scales the error of a sum that nearly cancels with it by (1 + unit).
        self.slack_F = (1 + self.unit) * errors.norm_F
        self.bias_error_F = errors.bias_F
        # A row without weights errs by nothing; one that holds NaN has a slack that is NaN.
        share = (errors.lost_F / errors.norm_F).nan_to_num(0.0, 0.0).amax()
        self._scale_B = errors.lost_B + share * errors.norm_B

    def levels(self, low_F: Tensor, high_F: Tensor) -> tuple[Tensor, Tensor]:
        """Levels for the pre-activations of blocks: an h that is between them by more than its
        slack is between `low_F` and `high_F` exactly."""
        if self.exact:
            return low_F, high_F
        low_F, high_F = low_F - self.b_F, high_F - self.b_F
        # The GEMM rounds its result as well, in proportion to it.
        low_F = low_F + self.unit * low_F.abs() + self.bias_error_F
        return low_F, high_F - self.unit * high_F.abs() - self.bias_error_F

    def low(self, tensor: Tensor) -> Tensor:
        """`tensor` in the type of the GEMM."""
        return tensor.to(self._dtype)

    def keep(self) -> Tensor:
        """All pre-activations [B, F] in the GEMM's type, which blocks then come from."""
        if self._kept_BF is None:
            kept_BF = self.x_BD.new_empty(self.x_BD.shape[0], self.W_FD.shape[0], dtype=self._dtype)
            self._multiply(self.x_BD, kept_BF)
            self._kept_BF = kept_BF
        return self._kept_BF

    def blocks(self) -> Iterator[Block]:
        """All rows, in order. A block is valid until the next one, which takes its memory."""
        rows, latents = self.x_BD.shape[0], self.W_FD.shape[0]
        size = min(ROWS, rows)
        low_RF = torch.empty(size, latents, dtype=self._dtype, device=self.x_BD.device)
        h_RF = low_RF if self.exact else torch.empty_like(low_RF, dtype=self.W_FD.dtype)
        scale_B = self.scale()
        for first in range(0, rows, size):
            last = min(first + size, rows)
            part = slice(0, last - first)
            if self._kept_BF is not None:
                h_RF[part].copy_(self._kept_BF[first:last])
            else:
                self._multiply(self.x_BD[first:last], low_RF[part])
                if not self.exact:
                    h_RF[part].copy_(low_RF[part])
            yield Block(first, last, h_RF[part], scale_B[first:last])

    def _multiply(self, x_RD: Tensor, out_RF: Tensor) -> None:
        if self.exact:
            torch.addmm(self.b_F, x_RD, self.W_FD.T, out=out_RF)
        else:
            torch.mm(x_RD.to(self._dtype), self._low_FD.T, out=out_RF)

    def scale(self) -> Tensor:
        """By how much each row's slack is larger: [B]."""
        return self._scale_B
