"""Unit rows, tangent gradients, the global norm and its clip; all without synchronisation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

SMALLEST_NORM = 1e-30
"""Keeps a zero row zero instead of NaN."""
SMALLEST_SQUARE = 1e-37
"""A normal float32, below every squared norm that matters."""


def row_norms(rows_FO: Tensor) -> Tensor:
    """Norm of each row [F], differentiable; the derivative of a zero row is zero, not NaN."""
    return rows_FO.square().sum(dim=1).clamp_min(SMALLEST_SQUARE).sqrt()


def project_rows_(gradient_FO: Tensor, unit_FO: Tensor) -> Tensor:
    """Remove from each row of the gradient its part along the unit row, in place.

    What is left is tangent to the sphere, so a step changes norms only to second order
    (Gao et al. 2024, arXiv 2406.04093, appendix A.1).
    """
    along_F1 = (gradient_FO * unit_FO).sum(dim=1, keepdim=True)
    return gradient_FO.addcmul_(along_F1, unit_FO, value=-1)


def renormalise_rows_(rows_FO: Tensor) -> Tensor:
    """Scale each row to unit norm, in place."""
    norms_F1 = rows_FO.square().sum(dim=1, keepdim=True).sqrt_()
    return rows_FO.div_(norms_F1.clamp_min_(SMALLEST_NORM))


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together (scalar tensor)."""
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()


def clip_(gradients: Iterable[Tensor], norm: Tensor, limit: float) -> None:
    """Scale the gradients in place so that their global norm is at most `limit`; 0 does nothing.

    A NaN norm makes every gradient NaN: a divergence is shown, never hidden.
    """
    if limit == 0:
        return
    factor = (limit / norm).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factor)
