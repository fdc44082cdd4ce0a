"""What both ways through a micro-batch share: forward to the error, then back from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from saeserve.core.kernels.compiled import Array, array, arrays, helper
from saeserve.core.kernels.lanes import Number

FIRING_SUMS = 4
FIRING, SLOPES, NOT_BELOW, ABOVE = range(FIRING_SUMS)
"""Sums of a latent: tanh, and (1 - tanh²) f, of active entries; entries that are not below the
threshold, and their h."""
SUMS = 3
SHIFT, BAND, IN_BAND = range(SUMS)
"""Sums for each latent: d loss / d h; d loss / d f in the band; entries in the band.
All beyond what entries that are not listed have."""


@dataclass(frozen=True)
class Firing:
    """What each latent did. `sums_FS` has the columns FIRING .. ABOVE."""

    counts_F: Tensor
    """int64: rows in which it was active."""
    sums_FS: Tensor
    depth_F: Tensor | None = None
    """Sum of threshold - h over entries below, by passes that see them; then ABOVE is left out."""

    @classmethod
    def nothing(cls, like_F: Tensor) -> Firing:
        """Zeros."""
        counts_F = torch.zeros(like_F.shape, dtype=torch.int64, device=like_F.device)
        return cls(counts_F, like_F.new_zeros(like_F.shape[0], FIRING_SUMS))


class Gradients(NamedTuple):
    """What `Pass.backward` adds to: the weights' gradients."""

    W_enc_FD: Tensor
    W_dec_FO: Tensor


class Prices(NamedTuple):
    """`Pricing` as arrays."""

    threshold: Array
    firing: Array
    silent: Array
    below: Array
    to_input: Array
    tanh_scale: Array
    half_width: Number
    per_error: Number
    usual_band: Number


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
    """Half of the band's width, in units of h."""
    per_error: float
    """d loss / d reconstruction, in units of the error."""

    def arrays(self, usual_band: float) -> Prices:
        """For kernels; `usual_band` is 1 where entries that are not listed are in the band."""
        # In the arrays' type, for a kernel computes with the wider one of two.
        number = array(self.threshold_F).dtype.type
        return Prices(
            *arrays(self.threshold_F, self.firing_F, self.silent_F),
            *arrays(self.below_F, self.to_input_F, self.tanh_scale_F),
            *map(number, (self.half_width, self.per_error, usual_band)),
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
        self, pricing: Pricing, error_BO: Tensor, W_dec_FO: Tensor, total: Gradients
    ) -> Tensor:
        """Add to `total`; returns the sums SHIFT .. IN_BAND [F, S].

        What is added and summed is beyond what usual entries have: silent ones, below the
        threshold, in the band or not as `usual_band` says.
        """
        ...


@helper
def weigh(
    prices: Prices, i: int, over: Number, tanh: Number, along: Number
) -> tuple[Number, Number, Number, Number]:
    """What an entry adds to the gradients beyond what one that is not listed would.

    With over = h - threshold, along = <W_dec[i], error of the row>, c = d loss / d y per error:
    d loss / d f = c along + firing (1 - tanh²) - silent [h <= threshold],
    d loss / d h = [h > threshold] d f + to_input [in band] d f - below [h < threshold].
    Returns c [active], d loss / d h less the usual one, and likewise [in band] d f and [in band].
    """
    zero, one = prices.threshold.dtype.type(0), prices.threshold.dtype.type(1)
    active = one if over > zero else zero
    below = one if over < zero else zero
    in_band = one if abs(over) < prices.half_width else zero
    of_error = prices.per_error * along
    slope = one - tanh * tanh
    to_f = of_error + prices.firing[i] * slope - prices.silent[i] * (one - active)
    usual_to_f = of_error + prices.firing[i] - prices.silent[i]
    usual = prices.to_input[i] * prices.usual_band * usual_to_f - prices.below[i]
    to_h = active * to_f + prices.to_input[i] * in_band * to_f - prices.below[i] * below
    in_band_to_f = in_band * to_f - prices.usual_band * usual_to_f
    return prices.per_error * active, to_h - usual, in_band_to_f, in_band - prices.usual_band


@helper
def of_tile(prices: Prices, start: int, end: int) -> Prices:
    """The prices of some latents."""
    return Prices(
        prices.threshold[start:end],
        prices.firing[start:end],
        prices.silent[start:end],
        prices.below[start:end],
        prices.to_input[start:end],
        prices.tanh_scale[start:end],
        prices.half_width,
        prices.per_error,
        prices.usual_band,
    )
