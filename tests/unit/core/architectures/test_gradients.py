"""The default gradients."""

from __future__ import annotations

import torch

from saeserve.core.architectures.base import by_autograd
from saeserve.core.architectures.contract import LossOutput, Stats, Tensors


def test_unused_parameters_have_gradient_zero_and_no_graph_is_kept() -> None:
    stats = Stats(torch.zeros(2, dtype=torch.int64), torch.zeros(()))

    def loss(params: Tensors) -> LossOutput:
        value = (params["used"] ** 2).sum()
        return LossOutput(value, {"square": value}, {"carried": params["used"] * 2}, stats)

    params = {"used": torch.tensor([1.0, 3.0]), "unused": torch.ones(2)}
    with torch.no_grad():
        output = by_autograd(loss, params)
    assert torch.equal(torch.as_tensor(output.grads["used"]), torch.tensor([2.0, 6.0]))
    assert torch.equal(torch.as_tensor(output.grads["unused"]), torch.zeros(2))
    assert not output.loss.requires_grad
    assert not output.state["carried"].requires_grad
    assert not params["used"].requires_grad
