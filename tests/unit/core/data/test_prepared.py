"""Rows are prepared once for all who read the held stretch, and as they would be alone."""

from __future__ import annotations

import torch
from tests.fakes.sources import CountedSource, MemorySource

from saeserve.core.data.lane import HostLane
from saeserve.core.data.prepared import AsTheyAre, PreparedRows
from saeserve.core.data.preprocess import Preprocessing

ROWS = torch.arange(60, dtype=torch.float32).reshape(20, 3)
PREPROCESSING = Preprocessing(torch.tensor([1.0, 2.0, 3.0]), 0.3)


def prepared() -> tuple[CountedSource, PreparedRows]:
    source = CountedSource(MemorySource(ROWS))
    return source, PreparedRows(source, PREPROCESSING, HostLane())


def test_rows_are_those_of_the_source_prepared() -> None:
    source, rows = prepared()
    rows.hold(0, 8)
    for position, size in ((0, 8), (4, 4), (16, 8)):
        wanted = PREPROCESSING.apply(source.inner.batch(position, size))
        assert torch.equal(rows.batch(position, size), wanted)
    wanted = PREPROCESSING.apply(source.inner.sample(5, 3))
    assert torch.equal(rows.sample(5, 3), wanted)
    assert (rows.d, rows.rows) == (3, 20)


def test_a_held_block_is_read_once_and_handed_out_without_a_copy() -> None:
    source, rows = prepared()
    rows.hold(4, 8)
    first = rows.batch(4, 4)
    assert rows.batch(4, 4) is first
    assert AsTheyAre().apply(first) is first
    rows.batch(8, 4)
    rows.batch(8, 4)
    assert source.reads == [(4, 4), (8, 4)]


def test_what_is_not_held_is_not_kept() -> None:
    source, rows = prepared()
    rows.hold(4, 8)
    for _ in range(2):
        rows.batch(0, 4)
        rows.batch(8, 8)
    assert source.reads == [(0, 4), (8, 8), (0, 4), (8, 8)]


def test_holding_on_keeps_what_lies_in_both_stretches() -> None:
    source, rows = prepared()
    rows.hold(0, 8)
    rows.batch(0, 4)
    rows.batch(4, 4)
    rows.hold(4, 8)
    rows.batch(4, 4)
    rows.hold(0, 4)
    rows.batch(0, 4)
    assert source.reads == [(0, 4), (4, 4), (0, 4)]


def test_the_last_sample_is_kept_until_the_run_begins() -> None:
    source, rows = prepared()
    for seed in (1, 1, 2):
        rows.sample(5, seed)
    rows.hold(0, 8)
    rows.sample(5, 2)
    assert source.samples == [(5, 1), (5, 2), (5, 2)]
