"""Memory of gradients is used again, and never while somebody holds it."""

from __future__ import annotations

import torch

from saeserve.core.kernels.buffers import gradient_of


def test_memory_comes_back_once_no_tensor_over_it_is_held() -> None:
    parameter = torch.ones(5, 3)
    first = gradient_of(parameter)
    assert first.shape == parameter.shape
    assert first.dtype == parameter.dtype
    place, row = first.data_ptr(), first[2]
    del first
    second = gradient_of(parameter)
    assert second.data_ptr() != place
    del row
    assert gradient_of(parameter).data_ptr() == place
    assert second.data_ptr() != place


def test_parameters_share_no_memory() -> None:
    one, other = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    place = gradient_of(one).data_ptr()
    held = [gradient_of(other) for _ in range(3)]
    assert place not in {gradient.data_ptr() for gradient in held}
    assert gradient_of(one).data_ptr() == place
