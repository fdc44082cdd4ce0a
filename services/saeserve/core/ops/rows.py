"""Sums of gradients over the micro-batches of a step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Tensors = dict[str, Tensor]


def accumulate(total: Tensors, gradients: Mapping[str, Tensor]) -> Tensors:
    """Add the gradients of one micro-batch to `total` in place; the first one starts it."""
    for name, gradient in gradients.items():
        if name in total:
            total[name].add_(gradient)
        else:
            total[name] = gradient
    return total
