"""Top contexts on rows whose features are their own coordinates."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.sae import generator, random_model
from torch import Tensor

from saeserve.core.data.dataset import HeldoutRows
from saeserve.core.evaluation.contexts import Hit, top_contexts
from saeserve.core.export.inference_model import InferenceModel
from saeserve.errors import DataError, SpecError

D = 4
PER_SEQUENCE = 5


def _identity() -> InferenceModel:
    """relu(x): latent i is coordinate i."""
    return dataclasses.replace(
        random_model("relu", d=D, d_sae=D),
        W_enc=torch.eye(D),
        b_enc=torch.zeros(D),
        W_dec=torch.eye(D),
        b_dec=torch.zeros(D),
    )


def _blocks(x_BD: Tensor, size: int, known: bool = True) -> Iterator[HeldoutRows]:
    """Two documents of sequences of five rows, cut into blocks anywhere."""
    row = np.arange(x_BD.shape[0], dtype=np.int32)
    unknown = np.full_like(row, -1)
    half = x_BD.shape[0] // 2
    for start in range(0, x_BD.shape[0], size):
        part = slice(start, start + size)
        yield HeldoutRows(
            x_BD=x_BD[part],
            document=(row >= half).astype(np.int32)[part],
            sequence=(row % half // PER_SEQUENCE if known else unknown)[part],
            position=(row % PER_SEQUENCE if known else unknown)[part],
            token_id=unknown[part],
        )


def _best(x_BD: Tensor, feature: int, count: int) -> list[Hit]:
    """The definition, row by row: best row of each sequence, then the strongest sequences."""
    half, best = x_BD.shape[0] // 2, dict[tuple[int, int], Hit]()
    for row in range(x_BD.shape[0]):
        value, document = float(x_BD[row, feature]), int(row >= half)
        sequence = row % half // PER_SEQUENCE
        known = best.get((document, sequence))
        if value > 0 and (known is None or value > known.activation):
            hit = Hit(value, document, sequence, row % PER_SEQUENCE)
            best[document, sequence] = hit
    return sorted(
        best.values(), key=lambda hit: (-hit.activation, hit.document, hit.sequence, hit.position)
    )[:count]


@given(st.integers(0, 1000), st.integers(1, 45), st.integers(1, 4))
def test_the_strongest_row_of_each_sequence(seed: int, size: int, per_feature: int) -> None:
    x_BD = torch.randint(-3, 4, (40, D), generator=generator(seed)).float()
    found = top_contexts(_identity(), _blocks(x_BD, size), [2, 0], per_feature)
    assert [each.feature for each in found] == [2, 0]
    for each in found:
        assert each.hits == _best(x_BD, each.feature, per_feature)
        assert each.frequency == int((x_BD[:, each.feature] > 0).sum()) / 40


def test_rows_of_unknown_sequences_stand_alone() -> None:
    x_BD = torch.zeros(10, D)
    x_BD[1:4, 0] = torch.tensor([1.0, 3.0, 2.0])
    (found,) = top_contexts(_identity(), _blocks(x_BD, 3, known=False), [0], 5)
    assert found.hits == [Hit(3.0, 0, -1, -1), Hit(2.0, 0, -1, -1), Hit(1.0, 0, -1, -1)]


def _rare(strengths: list[float], firings: list[int]) -> Tensor:
    """1000 rows in which latent i fires with strengths[i] in firings[i] different sequences."""
    x_BD = torch.zeros(1000, D)
    for feature, (strength, count) in enumerate(zip(strengths, firings, strict=True)):
        x_BD[torch.arange(count) * PER_SEQUENCE + feature, feature] = strength
    return x_BD


def test_features_are_chosen_by_strength_among_the_neither_rare_nor_dense() -> None:
    x_BD = _rare([1.0, 2.0, 9.0, 9.0], [5, 5, 1, 100])
    found = top_contexts(_identity(), _blocks(x_BD, 300), 4, 2)
    assert [each.feature for each in found] == [1, 0]
    assert [each.frequency for each in found] == [0.005, 0.005]


def test_equally_strong_features_come_in_order_and_only_as_many_as_asked() -> None:
    x_BD = _rare([1.0, 3.0, 3.0, 3.0], [5, 5, 6, 5])
    found = top_contexts(_identity(), _blocks(x_BD, 1000), 2, 2)
    assert [each.feature for each in found] == [1, 2]


def test_a_feature_that_shares_a_hit_with_a_chosen_one_is_passed_over() -> None:
    x_BD = _rare([3.0, 0.0, 1.0, 0.0], [5, 0, 5, 0])
    x_BD[:, 1] = x_BD[:, 0] * 0.5
    found = top_contexts(_identity(), _blocks(x_BD, 1000), 2, 2)
    assert [each.feature for each in found] == [0, 2]


def test_a_latent_that_never_fires_has_no_hits() -> None:
    (found,) = top_contexts(_identity(), _blocks(torch.zeros(10, D), 10), [3], 2)
    assert (found.frequency, found.hits) == (0, [])
    assert top_contexts(_identity(), _blocks(torch.zeros(10, D), 10), 3, 2) == []


@pytest.mark.parametrize(
    ("features", "per_feature", "complaint"),
    [(0, 1, "context_features"), (2, 0, "contexts_per_feature"), ([1, 4], 1, "4 is not in 0")],
)
def test_numbers_out_of_range_are_refused(
    features: int | list[int], per_feature: int, complaint: str
) -> None:
    with pytest.raises(SpecError, match=complaint):
        top_contexts(_identity(), [], features, per_feature)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        top_contexts(_identity(), [], 2, 1)
