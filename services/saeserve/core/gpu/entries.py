"""The active latents of a step, as one list that serves every choice of the TopK family.

Entries of row b and group g of its latents, together bag b G + g, are those from starts[b G + g] to
starts[b G + g + 1], in ascending order of latent. A prefix is made of the first groups. The list
has a size that the host knows, so places may stand for nothing: their value is 0, and their latent
is any; those after the last bag are all of this kind. Shape suffixes: B rows, G groups, K places of
a row, N places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from saeserve.core.gpu.choice import Chosen


@dataclass(frozen=True)
class Entries:
    """Places of a list, with the bags that they make."""

    values_N: Tensor
    latents_N: Tensor
    """int32, as `starts` is"""
    starts: Tensor
    """[B G + 1]"""
    groups: int
    each: int = 0
    """Places of every bag, where all have as many; else 0."""

    @classmethod
    def of_rows(cls, chosen: Chosen, first: int | None = None) -> Entries:
        """What was chosen row by row; with `first`, that many places of each row are a group, and
        the others are a second one."""
        rows, k = chosen.values_BK.shape
        found = chosen.values_BK.view(-1), chosen.latents_BK.view(-1)
        device = chosen.latents_BK.device
        starts_B = _steps(device, 0, (rows + 1) * k, k)
        if first is None:
            return cls(*found, starts_B, 1, each=k)
        starts_BG = starts_B[:, None] + _steps(device, 0, 2 * first, first)
        return cls(*found, starts_BG.view(-1)[:-1], 2)


@cache
def _steps(device: torch.device, start: int, stop: int, step: int) -> Tensor:
    """Made once: a graph that was recorded reads it where it is."""
    return torch.arange(start, stop, step, dtype=torch.int32, device=device)
