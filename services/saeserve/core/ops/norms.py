"""Unit rows, tangent gradients, the global norm and its clip; all without synchronisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

SMALLEST_NORM = 1e-30
"""Keeps a zero row zero instead of NaN."""
SMALLEST_SQUARE = 1e-37
"""A normal float32, below every squared norm that matters."""


def row_norms(rows_FO: Tensor) -> Tensor:
    """Norm of each row [F], differentiable; the derivative of a zero row is zero, not NaN."""
    return rows_FO.square().sum(dim=1).clamp_min(SMALLEST_SQUARE).sqrt()


def source_norms(rows_FO: Tensor, widths: Sequence[int]) -> Tensor:
    """What a sparsity penalty weighs each latent by: the sum over a crosscoder's sources of the
    norms of its decoder rows [F]; for one source (`widths` empty or of one) simply the norm.

    The sum, not the norm over the concatenation, lets a latent keep to few sources (Lindsey et
    al., Sparse Crosscoders for Cross-Layer Features and Model Diffing, Anthropic, October 2024).
    """
    if len(widths) < 2:
        return row_norms(rows_FO)
    parts = rows_FO.split_with_sizes(list(widths), dim=1)
    return torch.stack([row_norms(part_FS) for part_FS in parts]).sum(dim=0)


def times_norm_gradient(to_norm_F: Tensor, rows_FO: Tensor, widths: Sequence[int]) -> Tensor:
    """to_norm times the derivative of source_norms(rows, widths) by the rows: [F, O], no graph.

    Zero for a zero row, as autograd has it.
    """
    if len(widths) < 2:
        return rows_FO * _over_norm(to_norm_F, rows_FO)
    parts = rows_FO.split_with_sizes(list(widths), dim=1)
    return torch.cat([part_FS * _over_norm(to_norm_F, part_FS) for part_FS in parts], dim=1)


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


def _over_norm(to_norm_F: Tensor, rows_FS: Tensor) -> Tensor:
    squares_F = rows_FS.square().sum(dim=1)
    return torch.where(squares_F > SMALLEST_SQUARE, to_norm_F * squares_F.rsqrt(), 0.0)[:, None]
