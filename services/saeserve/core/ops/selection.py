"""Exact top-k whose ties are decided, so that equal inputs select equal latents everywhere."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saeserve.errors import SpecError


class Selected(NamedTuple):
    """k entries of each row, in ascending order of their column."""

    values_BK: Tensor
    indices_BK: Tensor
    """int64, ascending and unique in each row."""


def top_k(h_BF: Tensor, k: int) -> Selected:
    """The k largest entries of each row of h [B, F]; among equal values the lower column wins.

    Rows must be free of NaN. On CUDA this synchronises once, to see whether there are ties.
    Raises SpecError when k is not in 1 .. F.
    """
    width = h_BF.shape[1]
    if not 1 <= k <= width:
        raise SpecError("k", f"must be between 1 and {width}; got {k}", remedy="choose another k")
    every_BF = torch.arange(width, device=h_BF.device).expand(h_BF.shape)
    indices_BK = every_BF if k == width else _largest(h_BF, k)
    return Selected(h_BF.gather(1, indices_BK), indices_BK)


def _largest(h_BF: Tensor, k: int) -> Tensor:
    """`Tensor.topk` leaves the order of equals open; one entry more shows where that matters."""
    values_BK1, indices_BK1 = h_BF.topk(k + 1, dim=1)
    chosen_BK = indices_BK1[:, :k].sort(dim=1).values
    tied = (values_BK1[:, k - 1] == values_BK1[:, k]).nonzero().squeeze(1)
    if tied.numel() > 0:
        chosen_BK[tied] = _settle_ties(h_BF[tied], values_BK1[tied, k - 1 : k], k)
    return chosen_BK


def _settle_ties(h_TF: Tensor, last_T1: Tensor, k: int) -> Tensor:
    """Columns above the k-th value, filled up to k by the first columns that equal it."""
    above_TF = h_TF > last_T1
    equal_TF = h_TF == last_T1
    wanted_T1 = k - above_TF.sum(dim=1, keepdim=True)
    kept_TF = above_TF | (equal_TF & (equal_TF.cumsum(dim=1) <= wanted_T1))
    return kept_TF.nonzero()[:, 1].view(-1, k)
