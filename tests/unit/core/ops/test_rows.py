"""Whole gradients and gradients of rows, summed."""

from __future__ import annotations

import torch

from saeserve.core.ops.rows import RowGradient, Tensors, accumulate


def test_rows_and_whole_gradients_add_up_in_any_order() -> None:
    params = {"W": torch.zeros(4, 2)}
    rows = RowGradient(torch.tensor([0, 2]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    whole = torch.ones(4, 2)
    expected = torch.tensor([[2.0, 3.0], [1.0, 1.0], [4.0, 5.0], [1.0, 1.0]])
    for parts in ((rows, whole.clone()), (whole.clone(), rows)):
        total: Tensors = {}
        for part in parts:
            accumulate(total, {"W": part}, params)
        assert torch.equal(total["W"], expected)
