"""Sums over a batch against plain torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from saeserve.core.gpu import columns, totals
from saeserve.core.gpu.columns import Piece
from saeserve.core.training import dead, meter


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.sample
@pytest.mark.parametrize(("rows", "width"), [(3, 5), (300, 133), (128, 128), (8400, 2)])
def test_moments_of_columns(rows: int, width: int) -> None:
    y = drawn(rows, width, seed=1) + 3
    squares_O, sum_O = columns.moments(y)
    assert squares_O.dtype == sum_O.dtype == torch.float64
    torch.testing.assert_close(sum_O, y.double().sum(0), rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(squares_O, y.double().square().sum(0), rtol=1e-6, atol=1e-4)


@pytest.mark.sample
def test_weighted_sums_of_several_matrices() -> None:
    """One weight for all rows, or one each; rows may lie apart."""
    whole, W, w_F = drawn(200, 3, 140, seed=1), drawn(333, 140, seed=2), drawn(333, seed=3)
    scale = torch.tensor(-0.25)
    found = columns.columns([Piece(whole[:, 0], scale), Piece(W, w_F, -1.0)])
    wanted = -0.25 * whole[:, 0].double().sum(0) - w_F.double() @ W.double()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.sample
@pytest.mark.parametrize(("groups", "tiles", "proper"), [(1, 1, 0), (1, 3, 0), (3, 2, 1)])
def test_losses(groups: int, tiles: int, proper: int) -> None:
    rows, variance = 4500, torch.tensor(5.0)
    squares = drawn(rows, groups, tiles, seed=1).square()
    finite = drawn(rows, seed=2), drawn(70, seed=3)
    found = totals.losses(squares, finite, variance, (0.5, 0.75), proper)
    squares_G, weight = squares.double().sum((0, 2)), 1 / (rows * 5.0)
    close(found.inner, 0.5 * weight * squares_G[:-1].sum())
    close(found.last, 0.75 * weight * squares_G[-1])
    close(found.loss, found.inner + found.last)
    close(found.squared_error, squares_G[proper])
    close(found.scale, torch.tensor(-2 * weight))
    assert float(found.nothing) == 0
    assert found.scale.dtype == torch.float32


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", [0, 1])
def test_numbers_that_are_not_finite_show_in_the_loss(where: int, bad: float) -> None:
    finite = drawn(4, seed=2), drawn(7, seed=3)
    finite[where][2] = bad
    found = totals.losses(torch.ones(4, 1, 1), finite, torch.tensor(1.0), (1.0, 1.0), 0)
    assert bool(found.loss.isnan())
    assert bool(found.inner.isnan())


@pytest.mark.sample
def test_variation_and_active_entries() -> None:
    y, fired_F = drawn(40, 9, seed=1) + 2, torch.randint(0, 40, (8200,))
    variation, fired = totals.batch(*columns.moments(y), fired_F, 40)
    wanted = (y.double() - y.double().mean(0)).square().sum()
    torch.testing.assert_close(variation, wanted, rtol=1e-5, atol=1e-5)
    assert float(fired) == int(fired_F.sum())


def test_the_meter_takes_them() -> None:
    y, fired_F = drawn(40, 9, seed=1), torch.arange(5)
    spread = meter.spread(y)
    assert spread[0].shape == (9,)
    variation, fired = meter.of_batch(*spread, fired_F, 40)
    torch.testing.assert_close(variation, meter.variation(*spread, 40))
    assert float(fired) == 10


@pytest.mark.sample
def test_counters_of_silent_latents() -> None:
    fired_F = torch.randint(0, 2, (1030,), generator=torch.Generator().manual_seed(1))
    counters = torch.arange(1030), torch.arange(1030) * 10_000_000_000
    wanted = [(counter + 64) * (fired_F == 0) for counter in counters]
    dead.update_both_(counters, fired_F, 64)
    assert all(map(torch.equal, counters, wanted))
