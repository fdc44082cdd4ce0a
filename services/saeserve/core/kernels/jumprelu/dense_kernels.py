"""Kernels over every entry of a block of rows, between dense products."""

from __future__ import annotations

import math

import numpy as np

from saeserve.core.kernels.compiled import Array, helper, kernel, prange
from saeserve.core.kernels.jumprelu.entry_gradient import (
    ABOVE,
    BAND,
    FIRING,
    IN_BAND,
    NOT_BELOW,
    SHIFT,
    SLOPES,
    Prices,
    of_tile,
    weigh,
)
from saeserve.core.kernels.lanes import Number, dot

LATENTS = 64
"""Latents of a tile, whose sums stay in the first cache."""


@helper
def _part(
    over: Array,
    bias: Array,
    threshold: Array,
    slack: Array,
    fixed: Array,
    scale: Number,
    unit: Number,
    f: Array,
) -> None:
    """Turn h into h - threshold, and mark in f what is not surely below."""
    zero, one = f.dtype.type(0), f.dtype.type(1)
    for i in range(over.size):
        margin = slack[i] * scale + unit * abs(over[i]) + fixed[i]
        above = over[i] + bias[i] - threshold[i]
        over[i] = above
        f[i] = zero if above + margin < zero else one


@helper
def _fire(over: Number, h: Number, scale: Number, sums: Array) -> None:
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
    fixed_F: Array,
    scale_R: Array,
    unit: Number,
    counts_F: Array,
    sums_FS: Array,
) -> None:
    """`over` comes as h without `bias` and is left as h - threshold; f is h where that is positive.

    An h that may be on the other side of its threshold is computed again: one that lies nearer to
    it than slack · scale, `unit` of the product and `fixed` together.
    """
    rows, latents = over_RF.shape
    zero = f_RF.dtype.type(0)
    for tile in prange((latents + LATENTS - 1) // LATENTS):
        first, last = tile * LATENTS, min(tile * LATENTS + LATENTS, latents)
        bias, threshold = bias_F[first:last], threshold_F[first:last]
        slack, fixed = slack_F[first:last], fixed_F[first:last]
        for r in range(rows):
            over, f = over_RF[r, first:last], f_RF[r, first:last]
            _part(over, bias, threshold, slack, fixed, scale_R[r], unit, f)
            for j in range(last - first):
                if f[j] == zero:
                    continue
                i = first + j
                h = over[j] + threshold[j]
                margin = slack[j] * scale_R[r] + unit * abs(h - bias[j]) + fixed[j]
                if abs(over[j]) < margin:
                    h = dot(x_RD[r], W_FD[i]) + b_F[i]
                    over[j] = h - threshold[j]
                counts_F[i] += 1 if over[j] > zero else 0
                f[j] = h if over[j] > zero else zero
                _fire(over[j], h, scale_F[i], sums_FS[i])


@helper
def _weigh_row(
    prices: Prices, over: Array, tanh: Array, along: Array, shift: Array, band: Array, count: Array
) -> None:
    for i in range(over.size):
        _by_f, by_x, in_band_to_f, in_band = weigh(prices, i, over[i], tanh[i], along[i])
        along[i] = by_x
        shift[i] += by_x
        band[i] += in_band_to_f
        count[i] += in_band


@kernel
def weigh_all(prices: Prices, over_RF: Array, f_RF: Array, along_RF: Array, sums_SF: Array) -> None:
    """`along` comes as <W_dec, error> and is left as what each entry weighs its input's row by."""
    rows, latents = over_RF.shape
    zero = along_RF.dtype.type(0)
    for tile in prange((latents + LATENTS - 1) // LATENTS):
        first, last = tile * LATENTS, min(tile * LATENTS + LATENTS, latents)
        here = of_tile(prices, first, last)
        tanh = np.zeros(last - first, along_RF.dtype)
        for r in range(rows):
            f = f_RF[r, first:last]
            for j in range(last - first):
                tanh[j] = zero if f[j] == zero else math.tanh(here.tanh_scale[j] * f[j])
            _weigh_row(
                here,
                over_RF[r, first:last],
                tanh,
                along_RF[r, first:last],
                sums_SF[SHIFT, first:last],
                sums_SF[BAND, first:last],
                sums_SF[IN_BAND, first:last],
            )


@helper
def _sum_within(
    h: Array,
    low: Array,
    high: Array,
    slack: Array,
    scale: Number,
    along: Array,
    sums: Array,
    counts: Array,
) -> None:
    zero, one = sums.dtype.type(0), sums.dtype.type(1)
    for i in range(h.size):
        within = (h[i] > low[i]) & (h[i] + slack[i] * scale < high[i])
        sums[i] += along[i] if within else zero
        counts[i] += one if within else zero


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
    """Sum `along` and count over entries above low, and below high by more than the slack."""
    rows, latents = h_RF.shape
    for tile in prange((latents + LATENTS - 1) // LATENTS):
        first, last = tile * LATENTS, min(tile * LATENTS + LATENTS, latents)
        for r in range(rows):
            _sum_within(
                h_RF[r, first:last],
                low_F[first:last],
                high_F[first:last],
                slack_F[first:last],
                scale_R[r],
                along_RF[r, first:last],
                sums_F[first:last],
                counts_F[first:last],
            )
