"""How far a rounded pre-activation may lie from the exact one, as kernels use it.

What a GEMM in bfloat16 errs by is proven by `rounding`'s bound, whatever the rows: at most
lost[i] norm[b] + norm[i] lost[b] + bias[i], and the first two are at most
norm[i] (lost[b] + norm[b] max lost / norm), the maximum over latents. So it is a product of two
numbers and a third. Rounding takes nearly the same share of every row of weights: little is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.rounding import UNIT

SAFETY = 1.1
"""On what rounding a result changes, for levels that are rounded themselves."""


@dataclass(frozen=True)
class Margins:
    """An h of a block is within slack[i] scale[b] + unit |h| + fixed[i] of the exact one."""

    slack_F: Tensor
    fixed_F: Tensor
    scale_B: Tensor
    unit: float

    @classmethod
    def of(cls, encoder: Encoder) -> Margins:
        """Margins of the encoder's GEMM; zero where it is in the parameters' type."""
        if encoder.exact:
            zero_F = torch.zeros_like(encoder.b_F)
            return cls(zero_F, zero_F, encoder.x_BD.new_ones(encoder.x_BD.shape[0]), 0.0)
        errors, unit = encoder.errors, SAFETY * UNIT
        # A row without weights errs by nothing; one that holds NaN has a slack that is NaN.
        share = (errors.lost_F / errors.norm_F).nan_to_num(0.0, 0.0).amax()
        scale_B = errors.lost_B + share * errors.norm_B
        # Rounding scales the error of a sum that nearly cancels with it by (1 + unit).
        return cls((1 + unit) * errors.norm_F, errors.bias_F, scale_B, unit)

    def levels(self, low_F: Tensor, high_F: Tensor) -> tuple[Tensor, Tensor]:
        """Levels for the pre-activations of blocks: an h that is between them by more than its
        slack is between `low_F` and `high_F` exactly."""
        if self.unit == 0:
            return low_F, high_F
        low_F = low_F + self.unit * low_F.abs() + self.fixed_F
        return low_F, high_F - self.unit * high_F.abs() - self.fixed_F
