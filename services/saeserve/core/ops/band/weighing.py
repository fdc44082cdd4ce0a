"""What one listed entry adds to the gradients, beyond what an entry that is not listed would."""

from __future__ import annotations

from typing import NamedTuple

from saeserve.core.ops.compiled import Array, helper

FIRING_SUMS = 4
FIRING, SLOPES, NOT_BELOW, ABOVE = range(FIRING_SUMS)
"""Sums of a latent: tanh, and (1 - tanh²) f, of active entries; entries that are not below the
threshold, and their h."""
SUMS = 3
SHIFT, BAND, IN_BAND = range(SUMS)
"""What `weigh` sums for each latent: d loss / d h; d loss / d f in the band; entries in the band.
All beyond what entries that are not listed have."""


class Prices(NamedTuple):
    """`passes.Pricing` as arrays."""

    threshold: Array
    firing: Array
    silent: Array
    below: Array
    to_input: Array
    tanh_scale: Array
    half_width: float
    per_error: float
    usual_band: float


@helper
def weigh(
    prices: Prices, i: int, over: float, tanh: float, along: float, sums: Array
) -> tuple[float, float]:
    """What the entry's row of the error weighs per f, and its row of the input.

    `over` is h - threshold, `along` is <W_dec[i], error of the row>. Adds to `sums`.
    """
    zero, one = sums.dtype.type(0), sums.dtype.type(1)
    active = one if over > zero else zero
    below = one if over < zero else zero
    in_band = one if abs(over) < prices.half_width else zero
    of_error = prices.per_error * along
    slope = one - tanh * tanh
    to_f = of_error + prices.firing[i] * slope - prices.silent[i] * (one - active)
    usual_to_f = of_error + prices.firing[i] - prices.silent[i]
    usual = prices.to_input[i] * prices.usual_band * usual_to_f - prices.below[i]
    to_h = active * to_f + prices.to_input[i] * in_band * to_f - prices.below[i] * below
    sums[SHIFT] += to_h - usual
    sums[BAND] += in_band * to_f - prices.usual_band * usual_to_f
    sums[IN_BAND] += in_band - prices.usual_band
    return prices.per_error * active, to_h - usual
