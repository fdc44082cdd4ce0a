"""The derivative of `norms.source_norms`, without a graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saeserve.core.ops.norms import SMALLEST_SQUARE


def times_norm_gradient(to_norm_F: Tensor, rows_FO: Tensor, widths: Sequence[int]) -> Tensor:
    """to_norm times the derivative of source_norms(rows, widths) by the rows: [F, O].

    Zero for a zero row, as autograd has it.
    """
    if len(widths) < 2:
        return rows_FO * _over_norm(to_norm_F, rows_FO)
    parts = rows_FO.split_with_sizes(list(widths), dim=1)
    return torch.cat([part_FS * _over_norm(to_norm_F, part_FS) for part_FS in parts], dim=1)


def _over_norm(to_norm_F: Tensor, rows_FS: Tensor) -> Tensor:
    squares_F = rows_FS.square().sum(dim=1)
    return torch.where(squares_F > SMALLEST_SQUARE, to_norm_F * squares_F.rsqrt(), 0.0)[:, None]
