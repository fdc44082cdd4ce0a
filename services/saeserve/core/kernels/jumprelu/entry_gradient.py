"""What one listed entry adds to the gradients, beyond what an entry that is not listed would."""

from __future__ import annotations

from typing import NamedTuple

from saeserve.core.kernels.compiled import Array, helper
from saeserve.core.kernels.lanes import Number

FIRING_SUMS = 4
FIRING, SLOPES, NOT_BELOW, ABOVE = range(FIRING_SUMS)
"""Sums of a latent: tanh, and (1 - tanh²) f, of active entries; entries that are not below the
threshold, and their h."""
SUMS = 3
SHIFT, BAND, IN_BAND = range(SUMS)
"""Sums for each latent: d loss / d h; d loss / d f in the band; entries in the band.
All beyond what entries that are not listed have."""


class Prices(NamedTuple):
    """`passes.Pricing` as arrays."""

    threshold: Array
    firing: Array
    silent: Array
    below: Array
    to_input: Array
    tanh_scale: Array
    half_width: Number
    per_error: Number
    usual_band: Number


@helper
def weigh(
    prices: Prices, i: int, over: Number, tanh: Number, along: Number
) -> tuple[Number, Number, Number, Number]:
    """What the entry's row of the error weighs per f; what its row of the input weighs; and what
    it adds to the sums BAND and IN_BAND (the second adds to SHIFT).

    `over` is h - threshold, `along` is <W_dec[i], error of the row>.
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
