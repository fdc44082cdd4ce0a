"""Gradients of [F, ...] parameters: whole, or only of the rows that a step touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class RowGradient:
    """Gradient of a [F, ...] parameter that touches only `rows`; absent rows are zero."""

    rows: Tensor
    """int64, ascending, unique."""
    values: Tensor
    """[rows, ...]"""


def dense(gradient: Tensor | RowGradient, like: Tensor) -> Tensor:
    """`gradient` with the shape of `like`; rows that are absent are zero."""
    if isinstance(gradient, Tensor):
        return gradient
    return torch.zeros_like(like).index_copy_(0, gradient.rows, gradient.values)


def accumulate(
    total: Tensors, gradients: Mapping[str, Tensor | RowGradient], params: Tensors
) -> Tensors:
    """Add the gradients of one micro-batch to `total` in place; the first one starts it."""
    for name, gradient in gradients.items():
        if name not in total:
            total[name] = dense(gradient, params[name])
        elif isinstance(gradient, RowGradient):
            total[name].index_add_(0, gradient.rows, gradient.values)
        else:
            total[name].add_(gradient)
    return total
