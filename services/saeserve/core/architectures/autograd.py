"""What torch leaves untyped of hand-written derivatives."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor


class Saved(Protocol):
    """The context of an autograd.Function."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors for the backward pass."""
        ...


def apply(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    """Run the forward pass, and have autograd take the backward pass from the function."""
    result: Tensor = cast(Any, function).apply(*arguments)
    return result
