"""Kernels over every entry of a block of rows, between dense products."""

from __future__ import annotations

import math

from saeserve.core.ops.band.products import dot
from saeserve.core.ops.band.weighing import ABOVE, FIRING, NOT_BELOW, SLOPES, Prices, weigh
from saeserve.core.ops.compiled import Array, helper, kernel, prange

LATENTS = 64
"""Latents of a tile, whose sums stay in the first cache."""


@helper
def _fire(over: float, h: float, scale: float, sums: Array) -> None:
    """Add one entry to a latent's sums."""
    one = sums.dtype.type(1)
    if over > 0:
        tanh = math.tanh(scale * h)
        sums[FIRING] += tanh
        sums[SLOPES] += (one - tanh * tanh) * h
    if not over < 0:
        sums[NOT_BELOW] += one
        sums[ABOVE] += h


@kernel
def fire(
    over_RF: Array,
    f_RF: Array,
    threshold_F: Array,
    scale_F: Array,
    bias_F: Array,
    x_RD: Array,
    W_FD: Array,
    b_F: Array,
    slack_F: Array,
    scale_R: Array,
    unit: float,
    counts_F: Array,
    sums_FS: Array,
) -> None:
    """`over` comes as h without `bias` and is left as h - threshold; f is h where that is positive.

    An h that may be on the other side of its threshold is computed again.
    """
    rows, latents = over_RF.shape
    zero = f_RF.dtype.type(0)
    for tile in prange((latents + LATENTS - 1) // LATENTS):
        for r in range(rows):
            for i in range(tile * LATENTS, min(tile * LATENTS + LATENTS, latents)):
                h = over_RF[r, i] + bias_F[i]
                over = h - threshold_F[i]
                if abs(over) < slack_F[i] * scale_R[r] + unit * abs(over_RF[r, i]):
                    h = dot(x_RD[r], W_FD[i]) + b_F[i]
                    over = h - threshold_F[i]
                counts_F[i] += 1 if over > 0 else 0
                f_RF[r, i] = h if over > 0 else zero
                over_RF[r, i] = over
                _fire(over, h, scale_F[i], sums_FS[i])


@kernel
def weigh_all(prices: Prices, over_RF: Array, along_RF: Array, sums_FS: Array) -> None:
    """`along` comes as <W_dec, error> and is left as what each entry weighs its input's row by."""
    rows, latents = over_RF.shape
    zero = along_RF.dtype.type(0)
    for tile in prange((latents + LATENTS - 1) // LATENTS):
        for r in range(rows):
            for i in range(tile * LATENTS, min(tile * LATENTS + LATENTS, latents)):
                over, tanh = over_RF[r, i], zero
                if over > 0 and prices.tanh_scale[i] > 0:
                    tanh = math.tanh(prices.tanh_scale[i] * (over + prices.threshold[i]))
                _by_f, along_RF[r, i] = weigh(prices, i, over, tanh, along_RF[r, i], sums_FS[i])


@kernel
def sum_band(
    h_RF: Array,
    low_F: Array,
    high_F: Array,
    slack_F: Array,
    scale_R: Array,
    along_RF: Array,
    sums_F: Array,
    counts_F: Array,
) -> None:
    """Sum `along` and count over the entries between low and high by more than the slack."""
    rows, latents = h_RF.shape
    zero, one = sums_F.dtype.type(0), sums_F.dtype.type(1)
    for tile in prange((latents + LATENTS - 1) // LATENTS):
        start, end = tile * LATENTS, min(tile * LATENTS + LATENTS, latents)
        for r in range(rows):
            for i in range(start, end):
                within = h_RF[r, i] > low_F[i] and h_RF[r, i] + slack_F[i] * scale_R[r] < high_F[i]
                sums_F[i] += along_RF[r, i] if within else zero
                counts_F[i] += one if within else zero
