"""Gradients of micro-batches, summed."""

from __future__ import annotations

import torch

from saeserve.core.ops.rows import Tensors, accumulate


def test_gradients_of_micro_batches_add_up() -> None:
    total: Tensors = {}
    for part in (torch.ones(4, 2), torch.full((4, 2), 2.0), torch.eye(4, 2)):
        accumulate(total, {"W": part})
    assert torch.equal(total["W"], 3.0 + torch.eye(4, 2))
