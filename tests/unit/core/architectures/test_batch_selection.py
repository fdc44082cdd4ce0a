"""The n largest of a micro-batch, against sorting all of it."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saeserve.core.architectures.active import batch_selection
from saeserve.core.architectures.active.batch_selection import top_entries, without_synchronising
from saeserve.core.architectures.active.preactivations import PreActivations


def plainly(flat_M: Tensor, n: int) -> Tensor:
    """Largest first, the first of equals first; positive ones only."""
    order = sorted(range(flat_M.numel()), key=lambda place: (-float(flat_M[place]), place))
    return torch.tensor(sorted(place for place in order[:n] if flat_M[place] > 0)).long()


@given(
    size=st.integers(1, 4000),
    share=st.floats(0.0, 1.0),
    levels=st.sampled_from([2, 7, 10**6]),
    shift=st.sampled_from([-3.0, 0.0, 3.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=80, deadline=None)
def test_the_choice_is_that_of_a_full_sort_and_settles_ties_by_place(
    size: int, share: float, levels: int, shift: float, seed: int
) -> None:
    draws = torch.Generator().manual_seed(seed)
    flat = torch.randn(size, generator=draws) + shift
    flat = torch.round(flat * levels / 4) * 4 / levels
    n = max(1, int(share * size))
    expected = plainly(flat, n)
    found = top_entries(flat, n)
    assert torch.equal(found.places_N, expected)
    static = without_synchronising(flat, n)
    assert static.places_N.numel() == n
    assert torch.equal(static.places_N[flat[static.places_N] > 0], expected)
    assert float(static.level) == float(found.level)


@given(
    size=st.integers(1, 900),
    share=st.floats(0.0, 1.0),
    most=st.sampled_from([5, 7, 100, 899]),
    levels=st.sampled_from([2, 10**6]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_in_parts_the_choice_is_the_same(
    size: int, share: float, most: int, levels: int, seed: int
) -> None:
    """More entries than a device counts are chosen from part by part."""
    draws = torch.Generator().manual_seed(seed)
    flat = torch.round(torch.randn(size, generator=draws) * levels / 4) * 4 / levels
    n = max(1, int(share * size))
    with mock.patch.object(batch_selection, "MOST_AT_ONCE", most):
        found = batch_selection.in_parts(flat, n)
    whole = without_synchronising(flat, n)
    assert torch.equal(found.places_N, whole.places_N)
    assert float(found.level) == float(whole.level)


@given(
    size=st.integers(1, 400),
    share=st.floats(0.0, 1.0),
    most=st.sampled_from([9, 100]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_counting_chooses_the_same(
    size: int, share: float, most: int, dtype: torch.dtype, seed: int
) -> None:
    """Where n is so large that parts hold hardly fewer candidates than the whole."""
    draws = torch.Generator().manual_seed(seed)
    flat = (torch.randn(size, generator=draws) * 3).round(decimals=seed % 3).to(dtype)
    flat[torch.randint(0, size, (size // 8,), generator=draws)] *= 0.0
    n = max(1, int(share * size))
    with mock.patch.object(batch_selection, "MOST_AT_ONCE", most):
        found = batch_selection.by_counting(flat, n)
    whole = without_synchronising(flat, n)
    assert torch.equal(found.places_N, whole.places_N)
    assert float(found.level) == float(whole.level)


@pytest.mark.parametrize("worst", [torch.nan, -torch.nan, torch.inf])
def test_counting_keeps_what_is_not_finite(worst: float) -> None:
    flat = torch.randn(100)
    flat[[7, 70]] = worst
    with mock.patch.object(batch_selection, "MOST_AT_ONCE", 30):
        for n in (1, 2, 50):
            places = batch_selection.by_counting(flat, n).places_N
            assert places.numel() == n
            assert int(torch.isin(places, torch.tensor([7, 70])).sum()) == min(n, 2)


def test_the_level_parts_what_is_kept_from_what_is_left() -> None:
    flat = torch.tensor([5.0, 1.0, 3.0, -2.0, 4.0])
    assert [float(top_entries(flat, n).level) for n in (1, 2, 3, 4, 5)] == [4.5, 3.5, 2.0, 0.5, 0.0]
    assert float(top_entries(torch.tensor([2.0, 2.0, 2.0]), 2).level) == 2.0


def test_what_is_not_a_number_is_kept() -> None:
    flat = torch.randn(1000)
    flat[700] = torch.nan
    assert bool((top_entries(flat, 10).places_N == 700).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pre_activations_give_the_exact_choice_of_the_batch(dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    x, b = torch.randn(64, 32, generator=draws), torch.randn(200, generator=draws) / 4
    W = torch.randn(200, 32, generator=draws) / 32**0.5
    exact_BF = x @ W.T + b
    top = PreActivations.compute(x, W, b, dtype).top_of_batch(8 * 64)
    expected = exact_BF.flatten().topk(8 * 64).indices.sort().values
    assert torch.equal(top.rows_N * 200 + top.latents_N, expected)
    assert top.values_N.dtype == torch.float32
    torch.testing.assert_close(top.values_N, exact_BF.flatten()[expected], rtol=1e-5, atol=1e-6)
    inside = exact_BF > top.level
    assert int(inside.sum()) == 8 * 64
