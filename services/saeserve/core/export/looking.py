"""What a model's features have to do with each other and with rows: neighbours and activity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.ops.sparse import SparseRows

BLOCK_BYTES = 64 * 2**20
"""Bound of the cosines [features, latents of a block] that are in memory together."""


@dataclass(frozen=True)
class Nearest:
    """Latents by falling cosine of their decoder rows to that of one feature."""

    features: tuple[int, ...]
    cosines: tuple[float, ...]


def neighbours(model: InferenceModel, features: Sequence[int], count: int) -> list[Nearest]:
    """For each feature, the `count` other latents whose decoder rows have the largest cosine to
    its own; of equal ones, the lower first.

    A latent whose row is zero has no direction: it has no neighbours and is nobody's. Blocks of
    latents bound the memory; a crosscoder's rows are those over all its sources.
    """
    W_FO = model.W_dec
    asked_Q = torch.tensor(features, device=W_FO.device)
    unit_QO = torch.nn.functional.normalize(W_FO[asked_Q], dim=1)
    best_QK, latents_QK = _nothing(len(features), W_FO)
    step = max(1, BLOCK_BYTES // (4 * max(1, len(features))))
    for start in range(0, len(W_FO), step):
        block_FO = W_FO[start : start + step]
        norm_F = block_FO.square().sum(dim=1).sqrt()
        cosine_QF = (unit_QO @ block_FO.T) / norm_F
        numbers_F = torch.arange(start, start + len(block_FO), device=W_FO.device)
        cosine_QF[:, norm_F == 0] = -torch.inf
        cosine_QF[asked_Q[:, None] == numbers_F] = -torch.inf
        best_QK, latents_QK = _larger(
            torch.cat([best_QK, cosine_QF], 1),
            torch.cat([latents_QK, numbers_F.expand(len(features), -1)], 1),
            count,
        )
    best_QK = torch.where(unit_QO.any(dim=1)[:, None], best_QK, -torch.inf)
    return [_nearest(*row) for row in zip(best_QK.cpu(), latents_QK.cpu(), strict=True)]


def _nothing(rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_zeros(rows, 0), torch.zeros(rows, 0, dtype=torch.long, device=like.device)


def _larger(values_QN: Tensor, latents_QN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    order_QN = values_QN.argsort(dim=1, descending=True, stable=True)[:, :count]
    return values_QN.gather(1, order_QN), latents_QN.gather(1, order_QN)


def _nearest(cosine_K: Tensor, latents_K: Tensor) -> Nearest:
    kept = cosine_K > -torch.inf
    # The rounding of a product may come out above 1.
    cosines = [min(1.0, max(-1.0, float(value))) for value in cosine_K[kept]]
    return Nearest(tuple(int(latent) for latent in latents_K[kept]), tuple(cosines))


@dataclass(frozen=True)
class Activity:
    """How latents fired in some rows; only those that fired, in order."""

    latents_A: Tensor
    largest_A: Tensor
    """Activation of the largest magnitude, with its sign."""
    mean_A: Tensor
    """Mean magnitude over all rows, 0 where a latent did not fire; float64."""
    rows_A: Tensor
    """Rows in which it fired."""


def activity(features: SparseRows) -> Activity:
    """Sums over the stored entries, so memory goes with those and with d_sae."""
    latents_N, values_N, d_sae = features.latents, features.values, features.d_sae
    high_F = values_N.new_zeros(d_sae).scatter_reduce(0, latents_N, values_N, "amax")
    low_F = values_N.new_zeros(d_sae).scatter_reduce(0, latents_N, values_N, "amin")
    total_F = torch.zeros(d_sae, dtype=torch.float64, device=values_N.device)
    total_F.index_add_(0, latents_N, values_N.abs().double())
    rows_F = torch.bincount(latents_N, minlength=d_sae)
    latents_A = rows_F.nonzero()[:, 0]
    return Activity(
        latents_A,
        torch.where(high_F >= -low_F, high_F, low_F)[latents_A],
        total_F[latents_A] / max(1, features.rows),
        rows_F[latents_A],
    )
