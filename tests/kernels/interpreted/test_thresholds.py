"""Entries above their thresholds, against a comparison in float64."""

from __future__ import annotations

import math
from itertools import chain, pairwise

import pytest
import torch
from tests.fakes.tiny_models import listed as items
from torch import Tensor

from saeserve.core.gpu import rows, thresholds
from saeserve.core.gpu.thresholds import AT_ONCE, Listed


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Entries = list[list[tuple[int, float]]]
"""Latent and value of each entry, row by row."""


def listed(found: Listed) -> Entries:
    ends: list[int] = items(found.offsets)
    pairs = list(zip(items(found.latents_N), items(found.values_N), strict=True))
    return [pairs[start:stop] for start, stop in pairwise(ends)]


def compared(h_BF: Tensor, threshold_F: Tensor) -> Entries:
    return [
        [(i, float(h)) for i, h in enumerate(h_F) if not float(h) <= float(threshold_F[i])]
        for h_F in h_BF
    ]


def low_list(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, threshold_F: Tensor, room: int) -> Listed:
    x_low, W_low, b_low_F = rows.rounded(x_BD), rows.shadow_of(W_FD), b_F.to(rows.LOW)
    h_BF = torch.addmm(b_low_F, x_low.low_FD, W_low.low_FD.T)
    errors_B = rows.largest_errors(x_low, W_low, b_F)
    return thresholds.above_of_low(h_BF, errors_B, threshold_F, room, x_BD, (W_FD, b_F))


@pytest.mark.sample
@pytest.mark.parametrize("latents", [60, AT_ONCE + 7])
def test_exact_entries_are_those_above_their_thresholds(latents: int) -> None:
    h_BF, threshold_F = drawn(3, latents), drawn(latents, seed=1).abs()
    threshold_F[3] = math.inf
    h_BF[1] = -1.0
    h_BF[2, 5] = threshold_F[5]
    found = thresholds.above(h_BF, threshold_F, 3 * latents)
    assert listed(found) == compared(h_BF, threshold_F)
    assert not found.values_N[int(found.offsets[-1]) :].any()


@pytest.mark.sample
def test_after_a_product_in_low_precision_the_entries_are_those_of_float32() -> None:
    """Most thresholds lie closer to an entry, above or below it, than the product can tell."""
    x_BD, W_FD, b_F = drawn(4, 33), drawn(120, 33, seed=1), drawn(120, seed=2)
    exact_BF = torch.addmm(b_F.double(), x_BD.double(), W_FD.double().T)
    near_F = exact_BF[torch.arange(120) % 4, torch.arange(120)].abs().float()
    threshold_F = near_F * torch.tensor([1 + 1e-5, 1 - 1e-5, 0.5]).repeat(40)
    found = listed(low_list(x_BD, W_FD, b_F, threshold_F, 480))
    expected = compared(exact_BF, threshold_F)
    assert [[i for i, _ in row] for row in found] == [[i for i, _ in row] for row in expected]
    for mine, other in zip(chain(*found), chain(*expected), strict=True):
        assert mine[1] == pytest.approx(other[1], rel=1e-5)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e4])
def test_bounds_hold_for_numbers_that_float16_cannot_hold(size: float) -> None:
    x_BD, W_FD, b_F = drawn(3, 20) * size, drawn(50, 20, seed=1), torch.zeros(50)
    W_FD[7] *= 1e5
    W_FD[8] *= -1e5
    x_BD[1] *= 1e-3
    threshold_F = drawn(50, seed=3).abs() * size
    threshold_F[9] = math.inf
    found = listed(low_list(x_BD, W_FD, b_F, threshold_F, 150))
    expected = compared(x_BD.double() @ W_FD.double().T, threshold_F)
    assert [[i for i, _ in row] for row in found] == [[i for i, _ in row] for row in expected]


def test_entries_beyond_the_memory_are_counted_and_not_written() -> None:
    h_BF = drawn(3, 40).abs() + 0.1
    found = thresholds.above(h_BF, torch.zeros(40), 50)
    assert items(found.offsets) == [0, 40, 80, 120]
    assert items(found.values_N) == items(h_BF.flatten()[:50])
    assert items(found.latents_N) == [*range(40), *range(10)]


def test_not_a_number_and_infinity_exceed_every_threshold() -> None:
    x_BD, W_FD, threshold_F = drawn(2, 12), drawn(30, 12, seed=1), torch.full((30,), 1e9)
    x_BD[1, 4] = math.nan
    W_FD[11, 0] = math.inf * float(x_BD[0, 0].sign())
    found = listed(low_list(x_BD, W_FD, torch.zeros(30), threshold_F, 100))
    assert found[0] == [(11, math.inf)]
    assert [i for i, _ in found[1]] == list(range(30))
    assert all(math.isnan(value) for _, value in found[1])


def test_two_runs_are_equal_to_the_bit() -> None:
    args = drawn(2, 33), drawn(200, 33, seed=1), drawn(200, seed=2), torch.full((200,), 6.0)
    first, second = low_list(*args, 100), low_list(*args, 100)
    assert int(first.offsets[-1]) > 10
    assert torch.equal(first.offsets, second.offsets)
    assert torch.equal(first.latents_N, second.latents_N)
    assert torch.equal(first.values_N, second.values_N)
