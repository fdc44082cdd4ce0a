"""Rows with known features: frequencies, forest, correlations, magnitudes, and their keys."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from bench.planted.truth import (
    BLOCK_ROWS,
    LEAST_MAGNITUDE,
    GroundTruth,
    GroundTruthSource,
    GroundTruthSpec,
)
from tests.fakes.sparse_rows import assert_well_formed
from torch import Tensor

from saeserve.core.ops import sparse
from saeserve.errors import SpecError

SMALL = GroundTruthSpec(d=16, features=60, roots=4, branching=3, correlation_rank=3)


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    return GroundTruth(replace(SMALL, seed=3))


@pytest.fixture(scope="module")
def magnitudes(truth: GroundTruth) -> Tensor:
    return torch.cat([sparse.to_dense(truth.block(index).features) for index in range(40)])


def pairs(truth: GroundTruth) -> Iterator[tuple[int, int]]:
    for child, parent in enumerate(truth.forest.parent_G.numpy().tolist()):
        if parent >= 0:
            yield child, parent


def test_probabilities_fall_by_zipf_from_the_highest_to_the_lowest() -> None:
    spec = GroundTruthSpec(features=100, highest_probability=0.4, lowest_probability=0.01)
    probability_G = spec.probabilities()
    assert float(probability_G[0]) == pytest.approx(0.4)
    assert float(probability_G[-1]) == pytest.approx(0.01)
    share_G = (probability_G - 0.01) / 0.39
    # Rank 4 of a law of exponent 1/2: (1/2 - 1/10) / (1 - 1/10).
    assert float(share_G[3]) == pytest.approx(0.4 / 0.9)
    flat = GroundTruthSpec(features=5, highest_probability=0.2, zipf_exponent=0.0)
    assert flat.probabilities().numpy().tolist() == [0.2] * 5


def test_every_feature_fires_as_often_as_asked(truth: GroundTruth, magnitudes: Tensor) -> None:
    rows = len(magnitudes)
    expected_G = truth.probability_G
    deviation_G = (expected_G * (1 - expected_G) / rows).sqrt()
    found_G = (magnitudes > 0).double().mean(0)
    assert ((found_G - expected_G).abs() < 5 * deviation_G).all()
    assert float(found_G.sum()) == pytest.approx(truth.l0, rel=0.02)


def test_a_child_fires_only_beside_its_parent(truth: GroundTruth, magnitudes: Tensor) -> None:
    fires_BG = magnitudes > 0
    related = list(pairs(truth))
    assert len(related) >= 4 * 3
    for child, parent in related:
        assert not (fires_BG[:, child] & ~fires_BG[:, parent]).any()
        assert fires_BG[:, child].any()


def test_siblings_exclude_each_other(truth: GroundTruth, magnitudes: Tensor) -> None:
    parents = {parent for _child, parent in pairs(truth)}
    for parent in parents:
        children = [child for child, of in pairs(truth) if of == parent]
        assert (magnitudes[:, children] > 0).sum(1).max() == 1


def test_children_leave_their_parent_the_rest(truth: GroundTruth) -> None:
    for parent in {parent for _child, parent in pairs(truth)}:
        children = [child for child, of in pairs(truth) if of == parent]
        share = float(truth.probability_G[children].sum() / truth.probability_G[parent])
        assert share <= truth.spec.child_share + 1e-9
        assert len(children) <= truth.spec.branching


def test_trees_keep_to_roots_branching_and_depth(truth: GroundTruth) -> None:
    parent_G = truth.forest.parent_G
    related = list(pairs(truth))
    assert len({p for _, p in related if int(parent_G[p]) < 0}) <= truth.spec.roots
    grand = [child for child, parent in related if int(parent_G[parent]) >= 0]
    assert grand
    assert all(int(parent_G[int(parent_G[int(parent_G[child])])]) < 0 for child in grand)
    assert truth.forest.top_U.numpy().tolist() == [g for g in range(60) if int(parent_G[g]) < 0]


def test_no_roots_make_no_forest() -> None:
    truth = GroundTruth(replace(SMALL, roots=0))
    assert (truth.forest.parent_G < 0).all()


def test_the_common_factors_correlate_what_they_are_asked_to() -> None:
    pair = GroundTruthSpec(
        d=4,
        features=2,
        roots=0,
        correlation_rank=1,
        highest_probability=0.5,
        lowest_probability=0.5,
    )
    for correlation in (0.0, 0.6):
        truth = GroundTruth(replace(pair, correlation=correlation))
        fires_BG = torch.cat([sparse.to_dense(truth.block(i).features) for i in range(30)]) > 0
        both = float((fires_BG[:, 0] & fires_BG[:, 1]).double().mean())
        # The orthant probability; with one factor the two loadings agree or oppose each other.
        expected = [0.25 + s * math.asin(correlation) / (2 * math.pi) for s in (1, -1)]
        assert min(abs(both - value) for value in expected) < 0.012


def test_magnitudes_follow_the_rank(truth: GroundTruth, magnitudes: Tensor) -> None:
    fires_BG = magnitudes > 0
    mean_G = magnitudes.sum(0) / fires_BG.sum(0)
    assert float(mean_G[:10].mean()) > float(mean_G[-10:].mean()) + 0.3
    assert float(mean_G.mean()) == pytest.approx(4.5, abs=0.15)
    assert float(magnitudes[fires_BG].min()) >= LEAST_MAGNITUDE


def test_rows_are_what_fires_in_them(truth: GroundTruth) -> None:
    block = truth.block(7)
    expected_BD = sparse.to_dense(block.features) @ truth.directions + truth.offset
    torch.testing.assert_close(block.x_BD, expected_BD)
    assert_well_formed(block.features)
    length_G = truth.directions.square().sum(1).sqrt()
    torch.testing.assert_close(length_G, torch.ones(60))
    assert float(truth.offset.square().sum().sqrt()) == pytest.approx(0.5)


def test_a_block_depends_on_its_keys_alone(truth: GroundTruth) -> None:
    again = GroundTruth(truth.spec)
    again.block(5)
    assert torch.equal(again.block(2).x_BD, truth.block(2).x_BD)
    assert torch.equal(again.block(2).features.values, truth.block(2).features.values)
    other = GroundTruth(replace(SMALL, seed=4))
    for different in (truth.block(3), truth.block(2, "heldout"), other.block(2)):
        assert not torch.equal(different.x_BD, truth.block(2).x_BD)


def test_the_source_reads_any_place_of_an_endless_stream(truth: GroundTruth) -> None:
    source = GroundTruthSource(truth, 2 * BLOCK_ROWS)
    whole_ND = torch.cat([truth.block(0).x_BD, truth.block(1).x_BD])
    assert (source.d, source.rows) == (16, 2 * BLOCK_ROWS)
    assert torch.equal(source.batch(1000, 100), whole_ND[1000:1100])
    assert torch.equal(source.batch(2040, 16), torch.cat([whole_ND[2040:], whole_ND[:8]]))
    assert torch.equal(source.batch(5 * BLOCK_ROWS, 4), whole_ND[BLOCK_ROWS : BLOCK_ROWS + 4])
    assert len(GroundTruthSource(truth, 64 * BLOCK_ROWS).batch(0, 40 * BLOCK_ROWS)) == 40_960


def test_the_sample_holds_distinct_rows_of_the_epoch(truth: GroundTruth) -> None:
    source = GroundTruthSource(truth, 8 * BLOCK_ROWS)
    sample_ND = source.sample(1500, seed=1)
    assert sample_ND.shape == (1500, 16)
    firing_ND = sample_ND[(sample_ND - truth.offset).abs().amax(1) > 1e-5]
    assert len(firing_ND) > 700
    assert len(np.unique(firing_ND.numpy(), axis=0)) == len(firing_ND)
    epoch = {row.tobytes() for row in source.batch(0, source.rows).numpy()}
    assert all(row.tobytes() in epoch for row in sample_ND.numpy())
    assert torch.equal(sample_ND, source.sample(1500, seed=1))
    assert len(source.sample(10**6, seed=1)) == source.rows


def test_half_a_block_is_no_epoch(truth: GroundTruth) -> None:
    with pytest.raises(SpecError, match="not whole blocks"):
        GroundTruthSource(truth, 500)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lowest_probability": 0.0},
        {"highest_probability": 1.0},
        {"lowest_probability": 0.3, "highest_probability": 0.2},
        {"correlation": 1.0},
        {"child_share": 1.5},
        {"features": 0},
        {"branching": 0},
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        GroundTruthSpec(**wrong)
