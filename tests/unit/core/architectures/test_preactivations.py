"""The GEMM and the exact choice of the largest."""

from __future__ import annotations

import torch

from saeserve.core.architectures.active.preactivations import PreActivations


def prepared(dtype: torch.dtype) -> PreActivations:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, generator=draws)
    W = torch.randn(200, 32, generator=draws) / 32**0.5
    return PreActivations.compute(x, W, torch.randn(200, generator=draws) / 4, dtype)


def test_a_bfloat16_gemm_still_gives_the_exact_choice_and_float32_values() -> None:
    exact, low = prepared(torch.float32), prepared(torch.bfloat16)
    assert low.h_BF.dtype == torch.bfloat16
    values, indices = exact.top(8)
    low_values, low_indices = low.top(8)
    assert torch.equal(indices, low_indices)
    assert low_values.dtype == torch.float32
    torch.testing.assert_close(low_values, values, rtol=1e-5, atol=1e-6)


def test_a_choice_among_few_gives_minus_infinity_for_the_surplus() -> None:
    among = torch.zeros(200, dtype=torch.bool)
    among[[3, 50, 120]] = True
    for dtype in (torch.float32, torch.bfloat16):
        values, indices = prepared(dtype).top(5, among_F=among)
        assert bool(among[indices[:, :3]].all())
        assert bool(torch.isfinite(values[:, :3]).all())
        assert bool((values[:, 3:] == -torch.inf).all())


def test_float32_stands_for_the_parameters_own_type() -> None:
    x, W, b = torch.ones(2, 3).double(), torch.ones(4, 3).double(), torch.ones(4).double()
    assert PreActivations.compute(x, W, b, torch.float32).h_BF.dtype == torch.float64


def test_of_equals_the_lower_latents_are_chosen() -> None:
    """Small whole numbers, whose products are exact in either type."""
    draws = torch.Generator().manual_seed(1)
    x = torch.randint(-2, 3, (20, 6), generator=draws).float()
    W = torch.randint(-1, 2, (90, 6), generator=draws).float()
    expected = (x @ W.T).sort(dim=1, descending=True, stable=True)
    for dtype in (torch.float32, torch.bfloat16):
        values, indices = PreActivations.compute(x, W, torch.zeros(90), dtype).top(5)
        assert torch.equal(values, expected.values[:, :5])
        if dtype == torch.float32:
            assert torch.equal(indices, expected.indices[:, :5])
