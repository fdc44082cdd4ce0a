"""A micro-batch by dense products, in the encoder's type: where too much is active for lists."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from saeserve.core.kernels.compiled import Array, array, arrays, helper, kernel, prange
from saeserve.core.kernels.encoder import ROWS, Encoder
from saeserve.core.kernels.jumprelu import passes
from saeserve.core.kernels.jumprelu.margins import Margins
from saeserve.core.kernels.jumprelu.passes import Firing, Gradients, Prices, Pricing
from saeserve.core.kernels.lanes import Number, dot

LATENTS = 64
"""Latents of a tile, whose sums stay in the first cache."""


class Dense:
    """A `Pass` of five products. Inputs of the products are rounded to the encoder's type, sums
    over the batch are not; the active set is that of exact pre-activations. Two [B, F] temporaries
    in that type; what is between the products happens in blocks of rows that stay in the cache."""

    usual_band = 0.0

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._over_BF = encoder.keep()
        self._f_BF = torch.empty_like(self._over_BF)

    def forward(
        self, y_BO: Tensor, W_dec_FO: Tensor, threshold_F: Tensor, tanh_scale_F: Tensor
    ) -> Firing:
        """Add f W_dec to y; returns how each latent fired."""
        encoder, found = self._encoder, Firing.nothing(threshold_F)
        number, margins = array(threshold_F).dtype.type, Margins.of(encoder)
        for rows in self._blocks():
            over_RF = self._over_BF[rows].to(y_BO.dtype)
            f_RF = torch.empty_like(over_RF)
            _fire(
                *(array(over_RF), array(f_RF), array(threshold_F), array(tanh_scale_F)),
                *(array(encoder.x_BD[rows]), array(encoder.W_FD), array(encoder.b_F)),
                *(array(margins.slack_F), array(margins.fixed_F), array(margins.scale_B[rows])),
                number(margins.unit),
                *(array(found.counts_F), array(found.sums_FS)),
            )
            # Rounding keeps the sign of h - threshold, which says what is active.
            self._over_BF[rows].copy_(over_RF)
            self._f_BF[rows].copy_(f_RF)
        y_BO += self._f_BF @ W_dec_FO.to(encoder.low)
        return found

    def backward(
        self, pricing: Pricing, error_BO: Tensor, W_dec_FO: Tensor, total: Gradients
    ) -> Tensor:
        """Add to the weights' gradients; returns the sums of each latent [F, S]."""
        encoder, prices = self._encoder, pricing.arrays(self.usual_band)
        sums_SF = W_dec_FO.new_zeros(passes.SUMS, W_dec_FO.shape[0])
        low_error_BO, low_W_OF = error_BO.to(encoder.low), W_dec_FO.to(encoder.low).T
        for rows in self._blocks():
            over_RF = self._over_BF[rows].to(error_BO.dtype)
            along_RF = (low_error_BO[rows] @ low_W_OF).to(error_BO.dtype)
            f_RF = self._f_BF[rows].to(error_BO.dtype)
            _weigh(prices, *arrays(over_RF, f_RF, along_RF, sums_SF))
            self._over_BF[rows].copy_(along_RF)
        total.W_dec_FO.add_(self._f_BF.T @ low_error_BO, alpha=pricing.per_error)
        total.W_enc_FD.add_(self._over_BF.T @ encoder.x_BD.to(encoder.low))
        return sums_SF.T

    def _blocks(self) -> list[slice]:
        rows = self._over_BF.shape[0]
        return [slice(first, min(first + ROWS, rows)) for first in range(0, rows, ROWS)]


@helper
def _part(
    over: Array,
    threshold: Array,
    slack: Array,
    fixed: Array,
    scale: Number,
    unit: Number,
    f: Array,
) -> None:
    """Turn h into h - threshold, and mark in f what is not surely below."""
    zero, one = f.dtype.type(0), f.dtype.type(1)
    # Without a branch, for nearly all entries are below.
    for i in range(over.size):
        margin = slack[i] * scale + unit * abs(over[i]) + fixed[i]
        above = over[i] - threshold[i]
        over[i] = above
        f[i] = zero if above + margin < zero else one


@helper
def _add_fired(over: Number, h: Number, scale: Number, sums: Array) -> None:
    """Add one entry to a latent's sums."""
    one = sums.dtype.type(1)
    if over > 0:
        tanh = math.tanh(scale * h)
        sums[passes.FIRING] += tanh
        sums[passes.SLOPES] += (one - tanh * tanh) * h
    if not over < 0:
        sums[passes.NOT_BELOW] += one
        sums[passes.ABOVE] += h


@kernel
def _fire(
    over_RF: Array,
    f_RF: Array,
    threshold_F: Array,
    scale_F: Array,
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
    """over = h - threshold in place of h; f = h where that is positive, else 0; `counts` and `sums`
    as `entries.firing` has them.

    An h that may be on the other side of its threshold is computed again as <W, x> + b: one that
    lies nearer to it than slack · scale + unit |h| + fixed.
    """
    rows, latents = over_RF.shape
    zero = f_RF.dtype.type(0)
    for tile in prange((latents + LATENTS - 1) // LATENTS):
        first, last = tile * LATENTS, min(tile * LATENTS + LATENTS, latents)
        threshold = threshold_F[first:last]
        slack, fixed = slack_F[first:last], fixed_F[first:last]
        # A latent's sums have the order of the rows, whatever the number of threads.
        for r in range(rows):
            over, f = over_RF[r, first:last], f_RF[r, first:last]
            _part(over, threshold, slack, fixed, scale_R[r], unit, f)
            # The few entries that are marked, one by one.
            for j in range(last - first):
                if f[j] == zero:
                    continue
                i = first + j
                h = over[j] + threshold[j]
                margin = slack[j] * scale_R[r] + unit * abs(h) + fixed[j]
                if abs(over[j]) < margin:
                    h = dot(x_RD[r], W_FD[i]) + b_F[i]
                    over[j] = h - threshold[j]
                counts_F[i] += 1 if over[j] > zero else 0
                f[j] = h if over[j] > zero else zero
                _add_fired(over[j], h, scale_F[i], sums_FS[i])


@helper
def _weigh_row(
    prices: Prices, over: Array, tanh: Array, along: Array, shift: Array, band: Array, count: Array
) -> None:
    """Add a row's entries to the sums of their latents, in vectors."""
    for i in range(over.size):
        _by_f, by_x, in_band_to_f, in_band = passes.weigh(prices, i, over[i], tanh[i], along[i])
        along[i] = by_x
        shift[i] += by_x
        band[i] += in_band_to_f
        count[i] += in_band


@kernel
def _weigh(prices: Prices, over_RF: Array, f_RF: Array, along_RF: Array, sums_SF: Array) -> None:
    """along = d loss / d h of each entry in place of <W_dec, error>, by `passes.weigh`; `sums` get
    that, [in band] d loss / d f and [in band] of each latent."""
    rows, latents = over_RF.shape
    zero = along_RF.dtype.type(0)
    for tile in prange((latents + LATENTS - 1) // LATENTS):
        first, last = tile * LATENTS, min(tile * LATENTS + LATENTS, latents)
        here = passes.of_tile(prices, first, last)
        tanh = np.zeros(last - first, along_RF.dtype)
        # tanh is taken of active entries alone: it would be half of the kernel's time.
        for r in range(rows):
            f = f_RF[r, first:last]
            for j in range(last - first):
                tanh[j] = zero if f[j] == zero else math.tanh(here.tanh_scale[j] * f[j])
            _weigh_row(
                here,
                over_RF[r, first:last],
                tanh,
                along_RF[r, first:last],
                sums_SF[passes.SHIFT, first:last],
                sums_SF[passes.BAND, first:last],
                sums_SF[passes.IN_BAND, first:last],
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
    """Add a row's entries within the levels to the sums of their latents, in vectors."""
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
    """sums[i] += `along`, and counts[i] += 1, over entries above low, and below high by more than
    slack · scale."""
    rows, latents = h_RF.shape
    for tile in prange((latents + LATENTS - 1) // LATENTS):
        first, last = tile * LATENTS, min(tile * LATENTS + LATENTS, latents)
        # A latent's sums have the order of the rows, whatever the number of threads.
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
