"""Which pass takes the least time for a micro-batch: by lists of entries, or dense."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.jumprelu.dense_pass import Dense
from saeserve.core.kernels.jumprelu.entry_lists import Interval, list_outside, shares_outside
from saeserve.core.kernels.jumprelu.passes import Pass
from saeserve.core.kernels.jumprelu.sparse_pass import Listed, ListedWithBand

EXACT_PRODUCT, LOW_PRODUCT = 1 / 24, 1 / 48
"""A dense product takes as long as listing this share of all entries (CPU, measured): in the
parameters' type, and in a lower one."""
DENSE_PRODUCTS = 5


def in_band(threshold_F: Tensor, half_width: float) -> Interval:
    """Entries that are not listed are silent, and in the band."""
    return Interval(threshold_F - half_width, threshold_F, 1.0)


def below_band(threshold_F: Tensor, half_width: float) -> Interval:
    """Entries that are not listed lie below the band."""
    return Interval(_lowest(threshold_F), threshold_F - half_width, 0.0)


def silent(threshold_F: Tensor) -> Interval:
    """Entries that are not listed are silent; `ListedWithBand` finds those in the band."""
    return Interval(_lowest(threshold_F), threshold_F, 0.0)


def choose(
    encoder: Encoder, threshold_F: Tensor, half_width: float, *, band_to_input: bool
) -> Pass:
    """The way for the encoder's rows; `band_to_input` where the band's entries weigh rows of the
    input, as a straight-through slope makes them.

    A function of its arguments alone, so that a resumed run goes the same way.
    """
    product = EXACT_PRODUCT if encoder.exact else LOW_PRODUCT
    most = DENSE_PRODUCTS * product
    listings = [in_band(threshold_F, half_width), below_band(threshold_F, half_width)]
    shares = shares_outside(encoder, [*listings, silent(threshold_F)])
    with_band = shares.pop() + product
    if not band_to_input and with_band < min(*shares, most):
        encoder.keep()
        entries = list_outside(encoder, silent(threshold_F), most)
        return Dense(encoder) if entries is None else ListedWithBand(entries, encoder)
    interval = listings[shares.index(min(shares))]
    entries = list_outside(encoder, interval, most) if min(shares) < most else None
    return Dense(encoder) if entries is None else Listed(entries, encoder.x_BD)


def _lowest(threshold_F: Tensor) -> Tensor:
    return torch.full_like(threshold_F, -torch.finfo(threshold_F.dtype).max)
