"""The order of training rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.data.order import RowOrder, permutation, spread_sample

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda c: sum(c) > 0)
SEEDS = st.integers(0, 2**63 - 1)
EXPECTED_PERMUTATION = [1, 7, 2, 0, 6, 5, 4, 3]
EXPECTED_STREAM = [(1, 0), (1, 2), (1, 1), (0, 0), (0, 1)]


def stream(order: RowOrder, epoch: int) -> list[tuple[int, int]]:
    """(shard, row of the shard) of every position of an epoch, read from the definition."""
    rows: list[tuple[int, int]] = []
    for window, shards in enumerate(order.windows(epoch)):
        inside = [(s, row) for s in map(int, shards) for row in range(order.counts[s])]
        shuffle = order.shuffle(epoch, window, len(inside))
        rows += [inside[i] for i in shuffle]
    return rows


@given(counts=COUNTS, seed=SEEDS, window=st.integers(1, 5), epoch=st.integers(0, 2**40))
def test_every_epoch_visits_every_row_once(
    counts: list[int], seed: int, window: int, epoch: int
) -> None:
    order = RowOrder(tuple(counts), seed, window)
    everything = [(s, row) for s, count in enumerate(counts) for row in range(count)]
    assert sorted(stream(order, epoch)) == everything


@given(counts=COUNTS, seed=SEEDS, window=st.integers(1, 5), epoch=st.integers(0, 9))
def test_positions_walk_through_the_windows(
    counts: list[int], seed: int, window: int, epoch: int
) -> None:
    order = RowOrder(tuple(counts), seed, window)
    places = [order.place(epoch * order.rows + i) for i in range(order.rows)]
    expected = [
        (epoch, index, offset)
        for index, rows in enumerate(order.window_rows(epoch))
        for offset in range(rows)
    ]
    assert places == expected
    assert order.place((epoch + 1) * order.rows) == (epoch + 1, 0, 0)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    counts = (40, 40, 40)
    orders = [stream(RowOrder(counts, seed, 2), epoch) for seed in (0, 1) for epoch in (0, 1)]
    orders.append(stream(RowOrder(counts, 2**63 - 1, 2), 0))
    assert all(a != b for i, a in enumerate(orders) for b in orders[i + 1 :])
    assert stream(RowOrder(counts, 1, 2), 1) == orders[3]


def test_the_stream_is_fixed_for_all_time() -> None:
    """A resumed run must meet the same rows under a later release."""
    assert permutation(8, 1, 2, 3, 4).tolist() == EXPECTED_PERMUTATION
    assert stream(RowOrder((2, 3), 7, 1), 5) == EXPECTED_STREAM


@given(rows=st.integers(1, 200), n=st.integers(1, 250), seed=SEEDS)
def test_a_sample_is_distinct_and_spread(rows: int, n: int, seed: int) -> None:
    sample = np.sort(spread_sample(rows, n, seed))
    assert len(sample) == min(n, rows)
    assert sample[0] >= 0
    assert sample[-1] < rows
    assert all(a < b for a, b in pairwise(sample))
    stretch = -(-rows // len(sample))
    assert all(b - a < 2 * stretch for a, b in pairwise(sample))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_sample_is_not_in_order(seed: int) -> None:
    sample = spread_sample(1000, 50, seed).tolist()
    assert sample != sorted(sample)
