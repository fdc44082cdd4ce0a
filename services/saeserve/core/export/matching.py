"""Matches the features of two models by the directions of their decoder rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saeserve.core.export.inference_model import InferenceModel

MOST_PRODUCTS = 2**36
"""Multiplications to find the nearest features of one side: seconds on two processors."""
FEWEST = 256
"""Features that are compared however wide the models are, where there are as many."""
BLOCK = 4096
"""Rows of either side whose cosines are in memory together: 64 MiB."""


@dataclass(frozen=True)
class Matches:
    """For features of a model, the feature of another whose decoder row has the largest cosine.

    `compared_N` ascend; `nearest_N`, `cosine_N` and `mutual_N` belong to them: a pair is mutual
    where each is the nearest to the other. `live` and `other_live` count rows that are not zero.
    """

    compared_N: Tensor
    nearest_N: Tensor
    cosine_N: Tensor
    mutual_N: Tensor
    live: int
    other_live: int


def matches(model: InferenceModel, other: InferenceModel) -> Matches:
    """Match the features of `model` with those of `other`, which writes rows of the same width.

    Latents whose rows are zero take no part. Where all would take more than MOST_PRODUCTS, as many
    of the model's as do not are compared, chosen by a hash of their numbers.
    """
    W_FO, other_GO = model.W_dec, other.W_dec
    live_F, live_G = W_FO.any(dim=1).nonzero()[:, 0], other_GO.any(dim=1).nonzero()[:, 0]
    most = MOST_PRODUCTS // (max(len(W_FO), len(other_GO)) * W_FO.shape[1])
    compared_N = _chosen(live_F, max(FEWEST, most)) if len(live_G) else live_F[:0]
    place_N, cosine_N = _nearest(W_FO[compared_N], other_GO[live_G])
    found_U, pair_N = np.unique(place_N.cpu().numpy(), return_inverse=True)
    back_U, _ = _nearest(other_GO[live_G[torch.as_tensor(found_U)]], W_FO[live_F])
    return Matches(
        compared_N,
        live_G[place_N],
        cosine_N,
        live_F[back_U[torch.as_tensor(pair_N)]] == compared_N,
        len(live_F),
        len(live_G),
    )


def _chosen(live_F: Tensor, most: int) -> Tensor:
    """At most `most` of the features: whatever their order says, the hash does not follow it."""
    if len(live_F) <= most:
        return live_F
    # The finaliser of splitmix64 (Steele, Lea, Flood 2014).
    z_F = live_F.cpu().numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z_F = (z_F ^ (z_F >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z_F = (z_F ^ (z_F >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    order_F = np.argsort(z_F ^ (z_F >> np.uint64(31)))
    return live_F[torch.as_tensor(order_F[:most], device=live_F.device)].sort().values


def _nearest(asked_QO: Tensor, rows_GO: Tensor) -> tuple[Tensor, Tensor]:
    """For each asked row, the number of the one with the largest cosine, and that."""
    best_Q = asked_QO.new_full((len(asked_QO),), -torch.inf)
    place_Q = torch.zeros(len(asked_QO), dtype=torch.long, device=asked_QO.device)
    for start in range(0, len(rows_GO), BLOCK):
        unit_BO = normalize(rows_GO[start : start + BLOCK], dim=1)
        for first in range(0, len(asked_QO), BLOCK):
            part = slice(first, first + BLOCK)
            value_P, at_P = (normalize(asked_QO[part], dim=1) @ unit_BO.T).max(dim=1)
            better_P = value_P > best_Q[part]
            best_Q[part] = torch.where(better_P, value_P, best_Q[part])
            place_Q[part] = torch.where(better_P, at_P + start, place_Q[part])
    # The rounding of a product may come out above 1.
    return place_Q, best_Q.clamp(-1.0, 1.0)
