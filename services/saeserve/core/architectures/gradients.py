"""The default gradients: autograd of the loss as it is written."""

from __future__ import annotations

from collections.abc import Callable

import torch

from saeserve.core.architectures.contract import LossOutput, StepOutput, Tensors


def by_autograd(loss: Callable[[Tensors], LossOutput], params: Tensors) -> StepOutput:
    """Differentiate `loss` at `params`; a parameter that it does not use has gradient zero.

    Nothing that is returned holds the graph.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad():
        output = loss(leaves)
    values = torch.autograd.grad(
        output.loss, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return StepOutput(
        loss=output.loss.detach(),
        terms={name: term.detach() for name, term in output.terms.items()},
        grads={name: value.contiguous() for name, value in zip(leaves, values, strict=True)},
        state={name: value.detach() for name, value in output.state.items()},
        stats=output.stats,
    )
