"""How often latents fire: a histogram of log10 frequency, and those that never do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BIN_WIDTH = 0.5
"""In units of log10: two bins a decade."""


@dataclass(frozen=True)
class DensityBin:
    """Latents whose firing frequency lies in [10^log10_lower, 10^log10_upper)."""

    log10_lower: float
    log10_upper: float
    latents: int


@dataclass(frozen=True)
class Density:
    """Contiguous bins, rarest first, and the latents outside all of them: `never_fired`."""

    bins: tuple[DensityBin, ...]
    never_fired: int


def density(fired_F: Tensor, rows: int) -> Density:
    """Histogram of fired / rows; `fired_F` int64 [F] counts the rows in which a latent fired.

    Bins reach from the one that holds a single firing to [1, 10^0.5), for latents that always fire.
    """
    lowest = math.floor(-math.log10(rows) / BIN_WIDTH)
    edges = [step * BIN_WIDTH for step in range(lowest, 2)]
    frequency_F = fired_F[fired_F > 0].double().cpu() / rows
    bounds = torch.tensor([10.0**edge for edge in edges], dtype=torch.float64)
    place = torch.bucketize(frequency_F, bounds, right=True) - 1
    counts = torch.bincount(place.clamp_min(0), minlength=len(edges) - 1)
    bins = tuple(
        DensityBin(lower, lower + BIN_WIDTH, int(count))
        for lower, count in zip(edges[:-1], counts, strict=True)
    )
    return Density(bins, fired_F.numel() - frequency_F.numel())
