"""The way through a micro-batch that needs the least."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.ops.band.dense import Dense
from saeserve.core.ops.band.encoding import Encoder
from saeserve.core.ops.band.listed import Listed, ListedWithBand
from saeserve.core.ops.band.listing import Interval, list_outside, shares_outside
from saeserve.core.ops.band.passes import Pass

PRODUCT = {True: 1 / 24, False: 1 / 48}
"""A dense product costs what listing this share of all entries does (CPU, measured): for products
in the parameters' type, and in a lower one."""
DENSE_PRODUCTS = 5


def choose(
    encoder: Encoder, threshold_F: Tensor, half_width: float, *, every_entry_of_band: bool
) -> Pass:
    """The way for the encoder's rows; `every_entry_of_band` where the band's entries weigh rows of
    the input, as a straight-through slope makes them.

    A function of its arguments alone, so that a resumed run goes the same way.
    """
    edge_F = threshold_F - half_width
    nowhere_F = torch.full_like(edge_F, -torch.finfo(edge_F.dtype).max)
    intervals = [Interval(edge_F, threshold_F, 1.0), Interval(nowhere_F, edge_F, 0.0)]
    if not every_entry_of_band:
        intervals.append(Interval(nowhere_F, threshold_F, 0.0))
    product = PRODUCT[encoder.exact]
    extra = (0.0, 0.0, product)
    shares = shares_outside(encoder, intervals)
    costs = [share + more for share, more in zip(shares, extra, strict=False)]
    best = costs.index(min(costs))
    most = DENSE_PRODUCTS * product
    if costs[best] < most:
        if best == 2:
            encoder.keep()
        entries = list_outside(encoder, intervals[best], most)
        if entries is not None:
            if best == 2:
                return ListedWithBand(entries, encoder)
            return Listed(entries, encoder.x_BD)
    return Dense(encoder)
