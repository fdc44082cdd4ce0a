"""What both ways through a micro-batch share: forward to the error, then back from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from saeserve.core.kernels.compiled import array
from saeserve.core.kernels.jumprelu.entry_gradient import FIRING_SUMS, Prices


@dataclass(frozen=True)
class Firing:
    """What each latent did. `sums_FS` has the columns FIRING .. ABOVE of `entry_gradient`."""

    counts_F: Tensor
    """int64: rows in which it was active."""
    sums_FS: Tensor

    @classmethod
    def nothing(cls, like_F: Tensor) -> Firing:
        """Zeros."""
        counts_F = torch.zeros(like_F.shape, dtype=torch.int64, device=like_F.device)
        return cls(counts_F, like_F.new_zeros(like_F.shape[0], FIRING_SUMS))


@dataclass(frozen=True)
class Pricing:
    """What the loss makes of the entries of each latent [F]."""

    threshold_F: Tensor
    firing_F: Tensor
    """d loss / d f where f is 0, by the penalty; 1 - tanh² times as much elsewhere."""
    silent_F: Tensor
    """-d loss / d f of silent entries (the literal pre-act loss)."""
    below_F: Tensor
    """-d loss / d h below the threshold (the pre-act loss)."""
    to_input_F: Tensor
    """Slope of f by h in the band, straight through."""
    tanh_scale_F: Tensor
    """tanh is taken of this times f."""
    half_width: float
    """Of the band."""
    per_error: float
    """d loss / d reconstruction, in units of the error."""

    def arrays(self, usual_band: float) -> Prices:
        """For kernels; `usual_band` is 1 where entries that are not listed are in the band."""
        # In the arrays' type, for a kernel computes with the wider one of two.
        number = array(self.threshold_F).dtype.type
        return Prices(
            array(self.threshold_F),
            array(self.firing_F),
            array(self.silent_F),
            array(self.below_F),
            array(self.to_input_F),
            array(self.tanh_scale_F),
            number(self.half_width),
            number(self.per_error),
            number(usual_band),
        )


class Pass(Protocol):
    """One micro-batch's h, known one way or another."""

    @property
    def usual_band(self) -> float:
        """1 where the entries that `backward` leaves out are in the band, else 0."""
        ...

    def forward(
        self, y_BO: Tensor, W_dec_FO: Tensor, threshold_F: Tensor, tanh_scale_F: Tensor
    ) -> Firing:
        """Add f W_dec to y."""
        ...

    def backward(
        self,
        pricing: Pricing,
        error_BO: Tensor,
        W_dec_FO: Tensor,
        to_W_dec_FO: Tensor,
        to_W_enc_FD: Tensor,
    ) -> Tensor:
        """Add to the weights' gradients; returns `entry_gradient`'s sums SHIFT .. IN_BAND [F, S].

        What is added and summed is beyond what usual entries have: silent ones, below the
        threshold, in the band or not as `usual_band` says.
        """
        ...
