"""Models that normalise rows: encode leaves statistics in the features, decode needs them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.fakes.sae import generator, random_model

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import RowNorm
from saeserve.core.ops import sparse
from saeserve.errors import DataMismatchError

ROWS = 3 * torch.randn(25, 12, generator=generator(3)) + 4


def normalising(eps: float = 1e-5, ddof: int = 1) -> InferenceModel:
    model = random_model("topk")
    norm = RowNorm(kind="layer_norm", eps=eps, ddof=ddof)
    return dataclasses.replace(model, config=model.config.model_copy(update={"row_norm": norm}))


@pytest.mark.parametrize("ddof", [0, 1])
def test_rows_are_normalised_and_outputs_moved_back(ddof: int) -> None:
    model, plain = normalising(eps=0.5, ddof=ddof), random_model("topk")
    mean_B1 = ROWS.mean(1, keepdim=True)
    deviation_B1 = (ROWS - mean_B1).square().sum(1, keepdim=True).div(12 - ddof).sqrt()
    normal_BD = (ROWS - mean_B1) / (deviation_B1 + 0.5)
    torch.testing.assert_close(model.encode_dense(ROWS), plain.encode_dense(normal_BD))
    expected_BO = plain.reconstruct(normal_BD) * deviation_B1 + mean_B1
    torch.testing.assert_close(model.reconstruct(ROWS), expected_BO)


def test_features_are_the_same_for_moved_and_stretched_rows() -> None:
    model = normalising(eps=0.0)
    torch.testing.assert_close(model.encode_dense(5 * ROWS + 2), model.encode_dense(ROWS))
    torch.testing.assert_close(model.reconstruct(5 * ROWS + 2), 5 * model.reconstruct(ROWS) + 2)


def test_decode_without_statistics_is_refused() -> None:
    model = normalising()
    features = dataclasses.replace(model.encode(ROWS), statistics=None)
    with pytest.raises(DataMismatchError, match="rows' statistics"):
        model.decode(features)


def test_row_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = normalising()
    whole = model.reconstruct(ROWS)
    monkeypatch.setattr(sparse, "BLOCK_BYTES", 7 * 4 * 40)
    torch.testing.assert_close(model.reconstruct(ROWS), whole)


def test_parts_keep_their_rows_statistics() -> None:
    model = normalising()
    features = model.encode(ROWS)
    parts = [sparse.slice_rows(features, *rows) for rows in ((0, 4), (4, 4), (4, 25))]
    torch.testing.assert_close(model.decode(parts[2]), model.decode(features)[4:])
    joined = sparse.concat(parts).to(torch.device("cpu"))
    torch.testing.assert_close(model.decode(joined), model.decode(features))


def test_rows_with_and_without_statistics_do_not_join() -> None:
    with pytest.raises(DataMismatchError, match="with and without"):
        sparse.concat([normalising().encode(ROWS), random_model("topk").encode(ROWS)])


def test_equal_rows_have_no_deviation_and_stay_finite() -> None:
    model = normalising()
    assert bool(model.reconstruct(torch.full((2, 12), 7.0)).eq(7.0).all())
