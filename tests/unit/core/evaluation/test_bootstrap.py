"""Intervals cover what they should, and sums are those of units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.evaluation.bootstrap import MOST_UNITS, Sample, UnitSums, bounds
from saeserve.core.evaluation.metric import Measured


def sequences(units: int, seed: int) -> Sample:
    """Tokens of a sequence share most of what they vary by; the mean of all is 2."""
    draws = np.random.default_rng(seed)
    tokens = draws.integers(20, 200, units).astype(np.float64)
    common = draws.gamma(4, 0.5, units)
    return Sample({"tokens": tokens, "sum": tokens * common})


@pytest.mark.parametrize("units", [12, 24, 100])
def test_intervals_cover_the_mean_of_the_population(units: int) -> None:
    covered = 0
    for seed in range(200):
        measured = Measured(sequences(units, seed), "tokens", "tokens", seed=0)
        metric = measured.metric("mean", "nats", lambda sums: sums["sum"] / sums["tokens"])
        assert metric.low is not None
        assert metric.high is not None
        covered += metric.low <= 2 <= metric.high
    assert 0.9 <= covered / 200 <= 0.99


def test_the_same_seed_draws_the_same() -> None:
    sample = sequences(30, 0)
    first, again = (sample.resampled(5)["sum"] for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, sample.resampled(6)["sum"])


def test_one_unit_and_undefined_resamples_have_no_interval() -> None:
    assert bounds(np.ones(10), 1) == (None, None)
    assert bounds(np.array([1.0, np.nan]), 10) == (None, None)


def test_many_units_are_drawn_in_runs_of_neighbours() -> None:
    many = sequences(3 * MOST_UNITS + 1, 0)
    drawn = many.resampled(0, 50)["tokens"]
    assert drawn.shape == (50,)
    assert drawn.mean() == pytest.approx(many.totals["tokens"], rel=0.01)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 9)), min_size=1), st.integers(1, 7))
def test_sums_by_unit_do_not_depend_on_batches(rows: list[tuple[int, int]], size: int) -> None:
    sums = UnitSums(("value",))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        units = np.array([unit for unit, _ in part])
        sums.add(units, {"value": np.array([float(value) for _, value in part])})
    expected: dict[int, int] = {}
    for unit, value in rows:
        expected[unit] = expected.get(unit, 0) + value
    assert sorted(sums.sample().columns["value"]) == sorted(expected.values())
