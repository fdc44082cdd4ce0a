"""Products with few active latents, against dense ones."""

from __future__ import annotations

import pytest
import torch
from bench.gpu.budgets.counting import Counting
from hypothesis import given, settings
from hypothesis import strategies as st

from saeserve.core.architectures.active import latents


@given(
    rows=st.integers(1, 40),
    active=st.integers(1, 5),
    width=st.integers(1, 4),
    many=st.sampled_from([8, 2000]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_products_are_the_dense_ones(
    rows: int, active: int, width: int, many: int, seed: int
) -> None:
    """Indices may repeat in a row; 8 latents take the dense path, 2000 the sorted one."""
    draws = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, many, (rows, active), generator=draws)
    values = torch.randn(rows, active, generator=draws, dtype=torch.float64)
    x = torch.randn(rows, width, generator=draws, dtype=torch.float64)
    W = torch.randn(many, width, generator=draws, dtype=torch.float64)
    dense = torch.zeros(rows, many, dtype=torch.float64).scatter_add(1, indices, values)
    torch.testing.assert_close(latents.combine_rows(values, indices, W), dense @ W)
    torch.testing.assert_close(latents.row_dots(x, indices, W), (x @ W.T).gather(1, indices))
    torch.testing.assert_close(latents.scatter_outer(values, indices, x, many), dense.T @ x)


@pytest.mark.parametrize("many", [8, 2000])
def test_gradients_are_those_of_plain_autograd(many: int) -> None:
    draws = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64, requires_grad=True)

    indices = torch.stack([torch.randperm(many, generator=draws)[:3] for _ in range(6)])
    x, W, V, b, b_pre = leaf(6, 4), leaf(many, 4), leaf(many, 5), leaf(many), leaf(4)
    weight = torch.randn(6, 5, generator=draws, dtype=torch.float64)
    plain = ((x.detach() - b_pre) @ W.T + b).gather(1, indices)
    codes = torch.zeros(6, many, dtype=torch.float64).scatter(1, indices, plain)
    inputs = (W, V, b, b_pre)
    expected = torch.autograd.grad(((codes @ V) * weight).sum(), inputs)
    fast = latents.active_values(plain.detach(), indices, x.detach(), W, b, b_pre)
    assert torch.equal(fast, plain)
    found = torch.autograd.grad((latents.decode(fast, indices, V) * weight).sum(), inputs)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_dots_are_to_the_bit_those_of_autograd() -> None:
    draws = torch.Generator().manual_seed(2)
    indices = torch.randint(0, 50, (6, 3), generator=draws)
    x, W = torch.randn(6, 33, generator=draws), torch.randn(50, 33, generator=draws)
    zeros = torch.zeros(6, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(latents.combine_rows(zeros, indices, W), zeros, x)
    assert torch.equal(latents.row_dots(x, indices, W), expected)


def test_on_a_device_dots_gather_each_row_once() -> None:
    indices = torch.empty(6, 3, dtype=torch.int64, device="meta")
    x, W = torch.empty(6, 33, device="meta"), torch.empty(50, 33, device="meta")
    with Counting(1) as counting:
        latents.row_dots(x, indices, W)
    assert counting.counts.gathered == 6 * 3 * 33 * 4
