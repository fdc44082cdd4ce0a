"""Recovery figures on planted cases whose values are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from bench.planted.recovery import (
    Counts,
    Dictionary,
    absolute_cosines,
    mean_correlation,
    recovery,
)
from bench.planted.truth import GroundTruth, GroundTruthSpec, TrueRows
from scipy.optimize import linear_sum_assignment
from tests.fakes.sparse_rows import from_dense
from torch import Tensor

from saeserve.core.ops import sparse
from saeserve.errors import DataError, DataMismatchError

TRUE_BG = torch.tensor(
    [[2.0, 0, 0, 0], [2.0, 3.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 4.0], [0, 1.0, 0, 0]]
)
"""Features of four axes; three of them are nearest to a latent each."""


def truth(magnitudes_BG: Tensor = TRUE_BG) -> list[TrueRows]:
    directions_GD = torch.eye(magnitudes_BG.shape[1])
    return [TrueRows(magnitudes_BG @ directions_GD, from_dense(magnitudes_BG))]


def oracle(latents: list[int], d: int = 4) -> Dictionary:
    """Latents that are exactly these axes."""
    rows_FD = torch.eye(d)[latents]
    return Dictionary(rows_FD, lambda x: x @ rows_FD.T, lambda f: f @ rows_FD)


def test_the_whole_truth_scores_one() -> None:
    # Order, sign and length of decoder rows do not matter.
    shuffled = oracle([2, 0, 3, 1])
    scaled = Dictionary(
        shuffled.directions_FD * torch.tensor([[-3.0], [0.1], [1.0], [7.0]]),
        shuffled.encode,
        shuffled.decode,
    )
    found = recovery(scaled, torch.eye(4), truth(), linear_sum_assignment)
    assert (found.mcc, found.f1, found.precision, found.recall) == (1, 1, 1, 1)
    assert (found.uniqueness, found.silent, found.explained_variance) == (1, 0, 1)
    assert found.l0 == found.true_l0 == pytest.approx(6 / 5)
    assert found.rows == 5


def test_two_latents_of_one_feature_are_matched_once_and_not_unique() -> None:
    found = recovery(oracle([0, 0, 1]), torch.eye(4), truth(), linear_sum_assignment)
    # The second copy is matched with an axis at right angles to it.
    assert found.mcc == pytest.approx(2 / 3)
    assert found.uniqueness == pytest.approx(2 / 3)
    assert found.f1 == 1


def test_f1_weighs_false_and_missed_firings() -> None:
    rows_FD = torch.eye(4)[:3]
    features_BF = torch.tensor(
        # Latent 0 fires on one of its feature's two rows and twice beside it; latent 1 on both of
        # its two; latent 2 is silent.
        [[1.0, 0, 0], [0, 2.0, 0], [1.0, 0, 0], [1.0, 0, 0], [0, 0.5, 0]]
    )
    subject = Dictionary(rows_FD, lambda _x: features_BF, lambda f: f @ rows_FD)
    found = recovery(subject, torch.eye(4), truth(), linear_sum_assignment)
    precision, recall = (1 / 3, 1.0, 0.0), (1 / 2, 1.0, 0.0)
    assert found.precision == pytest.approx(sum(precision) / 3)
    assert found.recall == pytest.approx(sum(recall) / 3)
    assert found.f1 == pytest.approx((2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2) + 1 + 0) / 3)
    assert found.silent == pytest.approx(1 / 3)
    assert found.l0 == 1


def test_negative_features_count_as_firing() -> None:
    counts = Counts.none(1)
    counts.add(torch.tensor([[-1.0], [0.0]]) != 0, torch.tensor([[True], [True]]))
    precision_F, recall_F, f1_F = counts.scores()
    assert (precision_F.item(), recall_F.item()) == (1, 0.5)
    assert f1_F.item() == pytest.approx(2 / 3)


def test_the_matching_is_the_best_as_a_whole() -> None:
    # Taking 0.9 first leaves 0.1; the best sum is 0.8 + 0.7.
    cosine_FG = torch.tensor([[0.9, 0.8], [0.7, 0.1]], dtype=torch.float64)
    assert mean_correlation(cosine_FG, linear_sum_assignment) == pytest.approx(0.75)
    # Fewer latents than features: every latent is matched, features are left over.
    assert mean_correlation(cosine_FG[:1], linear_sum_assignment) == pytest.approx(0.9)
    assert mean_correlation(cosine_FG[:, :1], linear_sum_assignment) == pytest.approx(0.9)


def test_mcc_of_a_rotation_is_its_cosine() -> None:
    angle = 0.3
    turned_FD = torch.tensor(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    )
    cosine_FG = absolute_cosines(turned_FD, torch.eye(2))
    assert mean_correlation(cosine_FG, linear_sum_assignment) == pytest.approx(math.cos(angle))


def test_a_row_without_length_points_nowhere() -> None:
    assert absolute_cosines(torch.zeros(1, 3), torch.eye(3)).abs().sum() == 0


def test_explained_variance_is_against_the_rows_own_mean() -> None:
    mean_D = truth()[0].x_BD.mean(0)
    constant = Dictionary(torch.eye(4), lambda x: x * 0, lambda f: f * 0 + mean_D)
    found = recovery(constant, torch.eye(4), truth(), linear_sum_assignment)
    assert found.explained_variance == pytest.approx(0, abs=1e-12)
    assert (found.f1, found.silent, found.l0) == (0, 1, 0)


def test_counts_add_up_over_blocks() -> None:
    planted = GroundTruth(
        GroundTruthSpec(d=16, features=24, roots=2, branching=2, correlation_rank=2)
    )
    inverse = torch.as_tensor(np.linalg.pinv(planted.directions.numpy()))
    subject = Dictionary(
        planted.directions,
        lambda x: ((x - planted.offset) @ inverse).clamp_min(0),
        lambda f: f @ planted.directions + planted.offset,
    )
    blocks = [planted.block(index) for index in range(2)]
    joined = TrueRows(
        torch.cat([block.x_BD for block in blocks]),
        sparse.concat([block.features for block in blocks]),
    )
    apart = recovery(subject, planted.directions, blocks, linear_sum_assignment)
    at_once = recovery(subject, planted.directions, [joined], linear_sum_assignment)
    assert apart.metrics() == pytest.approx(at_once.metrics())
    assert apart.mcc == pytest.approx(1)
    assert apart.true_l0 == pytest.approx(planted.l0, rel=0.1)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        recovery(oracle([0]), torch.eye(4), [], linear_sum_assignment)
    with pytest.raises(DataMismatchError, match="3 wide"):
        recovery(oracle([0], d=3), torch.eye(4), truth(), linear_sum_assignment)
