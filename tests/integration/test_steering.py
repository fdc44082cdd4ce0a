"""Steer, Neighbours and TopFeatures over gRPC and through the SDK."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes.inference_server import (
    F16,
    INVALID,
    Service,
    dense,
    expected_features,
    refusal,
    rows,
    tensor,
)
from tests.fakes.tiny_models import listed

from saeserve.client import Client
from saeserve.client.errors import InvalidArgumentError
from saeserve.inference.rows import FloatArray
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import spec_pb2, tensor_pb2

NAN = float("nan")
Edit = spec_pb2.EditSpec


def clamp(feature: int, **bounds: float) -> spec_pb2.EditSpec:
    return Edit(feature=feature, clamp=spec_pb2.ClampSpec(**bounds))


def steer(
    service: Service,
    model: str,
    x: FloatArray,
    *edits: spec_pb2.EditSpec,
    rows: pb.RowSelection | None = None,
    target: tensor_pb2.Tensor | None = None,
) -> pb.SteerResponse:
    sent = tensor(x)
    return service.stub.Steer(
        pb.SteerRequest(model=model, activations=sent, edits=edits, rows=rows, target=target)
    )


@pytest.mark.parametrize("name", ["topk", "threshold", "crosscoder"])
def test_rows_move_by_what_the_edits_decode_to(service: Service, name: str) -> None:
    model, x = service.models[name], rows(2, 20)
    f_BF = expected_features(model, x)
    answer = steer(service, name, x, Edit(feature=3, set=4.0), Edit(feature=5, ablate=True))
    after_BF = f_BF.copy()
    after_BF[:, 3], after_BF[:, 5] = 4.0, 0.0
    expected = x.reshape(-1, 6) + (after_BF - f_BF) @ model.W_dec.numpy()
    assert list(answer.activations.shape) == [2, 20, 6]
    np.testing.assert_allclose(dense(answer.activations).reshape(-1, 6), expected, atol=1e-4)
    assert list(answer.rows_by_edit) == [int((f_BF[:, 3] != 4).sum()), int((f_BF[:, 5] != 0).sum())]
    assert answer.rows_changed == int((after_BF != f_BF).any(axis=1).sum())
    assert answer.execution.resolved_model == f"models/{name}/versions/1"


def test_rows_that_no_edit_changes_come_back_bit_for_bit(service: Service) -> None:
    x = rows(50)
    fires = expected_features(service.models["topk"], x)[:, 5] != 0
    assert 0 < fires.sum() < len(fires)
    answer = steer(service, "topk", x, Edit(feature=5, scale=0.0))
    got = dense(answer.activations)
    assert got[~fires].tobytes() == x[~fires].tobytes()
    assert (got[fires] != x[fires]).any(axis=1).all()
    half = x.astype(np.float16)
    request = pb.SteerRequest(
        model="topk",
        activations=tensor(x, F16),
        edits=[clamp(5, low=-1e6)],
        output_dtype=F16,
    )
    assert service.stub.Steer(request).activations.data == half.tobytes()


def test_a_selection_of_rows(service: Service) -> None:
    x, chosen = rows(4, 5), [1, 7, 19]
    one = steer(
        service, "relu", x, Edit(feature=2, add=3.0), rows=pb.RowSelection(rows=[*chosen, 7])
    )
    moved = (dense(one.activations) != x).any(axis=-1).reshape(-1)
    assert np.flatnonzero(moved).tolist() == chosen
    assert (one.rows_changed, list(one.rows_by_edit)) == (3, [3])
    none = steer(service, "relu", x, Edit(feature=2, add=3.0), rows=pb.RowSelection())
    assert dense(none.activations).tobytes() == x.tobytes()


def test_a_transcoder_moves_the_rows_that_it_writes(service: Service) -> None:
    model, x, y = service.models["skip"], rows(9), rows(9, seed=8)
    answer = steer(service, "skip", x, Edit(feature=1, add=2.0), target=tensor(y))
    expected = y + 2.0 * model.W_dec[1].numpy()
    np.testing.assert_allclose(dense(answer.activations), expected, atol=1e-5)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"edits": []}, "INVALID_SPEC", "edits"),
    ({"edits": [Edit(feature=20, add=1.0)]}, "INVALID_SPEC", "edits.0.feature"),
    ({"edits": [Edit(feature=-1, add=1.0)]}, "INVALID_SPEC", "edits.0.feature"),
    ({"edits": [Edit(add=1.0)]}, "INVALID_SPEC", "edits.0.feature"),
    ({"edits": [Edit(feature=1)]}, "INVALID_SPEC", "edits.0"),
    ({"edits": [Edit(feature=1, ablate=False)]}, "INVALID_SPEC", "edits.0"),
    ({"edits": [Edit(feature=1, add=1), Edit(feature=1, add=NAN)]}, "INVALID_SPEC", "edits.1.add"),
    ({"edits": [clamp(1, low=float("-inf"))]}, "INVALID_SPEC", "edits.0.clamp.low"),
    ({"edits": [clamp(1)]}, "INVALID_SPEC", "edits.0.clamp"),
    ({"edits": [clamp(1, low=2, high=1)]}, "INVALID_SPEC", "edits.0.clamp"),
    ({"edits": [Edit(feature=1, set=1), Edit(feature=1, set=2)]}, "INVALID_SPEC", "edits.1"),
    ({"edits": [Edit(feature=1, add=1), Edit(feature=1, ablate=True)]}, "INVALID_SPEC", "edits.1"),
    ({"edits": [clamp(1, high=1), clamp(1, low=2)]}, "INVALID_SPEC", "edits.1"),
    ({"edits": [Edit(feature=1, add=1)] * 257}, "BAD_COUNT", "edits"),
    ({"rows": pb.RowSelection(rows=[0, 4])}, "NO_SUCH_ROW", "rows.rows"),
    ({"rows": pb.RowSelection(rows=[-1])}, "NO_SUCH_ROW", "rows.rows"),
    ({"activations": tensor(rows(4) * np.float32(NAN))}, "NOT_FINITE", "activations.data"),
    ({"activations": tensor(rows(4, d=5))}, "WIDTH_MISMATCH", "activations.shape"),
    ({"target": tensor(rows(4))}, "NEEDS_NO_TARGET", "target"),
    ({"model": "skip"}, "NEEDS_TARGET", "target"),
    ({"model": "skip", "target": tensor(rows(3))}, "ROWS_DIFFER", "target.shape"),
    ({"model": "skip", "target": tensor(rows(4, d=5))}, "WIDTH_MISMATCH", "target.shape"),
    ({"model": "skip", "target": tensor(rows(4) * NAN)}, "NOT_FINITE", "target.data"),
    (
        {"edits": [Edit(feature=1, add=3e38), Edit(feature=2, set=-3e38)]},
        "OVERFLOW",
        "activations.data",
    ),
    ({"edits": [Edit(feature=1, add=1e39)]}, "OVERFLOW", "activations.data"),
]


@pytest.mark.parametrize(("changes", "reason", "field"), REFUSED)
def test_wrong_input_is_named(
    service: Service, changes: dict[str, Any], reason: str, field: str
) -> None:
    given: dict[str, Any] = {
        "model": "topk",
        "activations": tensor(rows(4)),
        "edits": [Edit(feature=1, add=1)],
        **changes,
    }
    code, text, found, where = refusal(service.stub.Steer, pb.SteerRequest(**given))
    assert (code, found, where) == (INVALID, reason, field), text
    assert " — " in text


def test_neighbours_are_those_of_the_decoder(service: Service) -> None:
    W_FO = service.models["topk"].W_dec
    request = pb.NeighboursRequest(model="topk", features=[3, 17, 3], count=4)
    for _ in range(2):  # the second answer is remembered
        answer = service.stub.Neighbours(request)
        assert answer.resolved_model == "models/topk/versions/1"
        assert [each.feature for each in answer.features] == [3, 17, 3]
        for each in answer.features:
            cosines = W_FO @ W_FO[each.feature]
            cosines[each.feature] = -2
            assert list(each.neighbours) == listed(cosines.topk(4).indices)
            np.testing.assert_allclose(each.cosines, cosines.topk(4).values.numpy(), atol=1e-6)
    more = service.stub.Neighbours(pb.NeighboursRequest(model="topk", features=[3]))
    assert len(more.features[0].neighbours) == 10


@pytest.mark.parametrize(
    ("features", "count", "reason", "field"),
    [
        ([], 1, "BAD_COUNT", "features"),
        ([0] * 257, 1, "BAD_COUNT", "features"),
        ([1, 20], 1, "NO_SUCH_FEATURE", "features[1]"),
        ([-1], 1, "NO_SUCH_FEATURE", "features[0]"),
        ([1], -1, "BAD_COUNT", "count"),
        ([1], 257, "BAD_COUNT", "count"),
    ],
)
def test_neighbours_of_nothing_are_refused(
    service: Service, features: list[int], count: int, reason: str, field: str
) -> None:
    request = pb.NeighboursRequest(model="topk", features=features, count=count)
    code, _, found, where = refusal(service.stub.Neighbours, request)
    assert (code, found, where) == (INVALID, reason, field)


@pytest.mark.parametrize("order", ["max", "mean", "rows"])
def test_top_features_are_those_of_encode(service: Service, order: str) -> None:
    x = rows(40)
    f_BF = expected_features(service.models["threshold"], x)
    by = {"max": f_BF.max(0), "mean": f_BF.mean(0), "rows": (f_BF != 0).sum(0)}[order]
    answer = service.stub.TopFeatures(
        pb.TopFeaturesRequest(model="threshold", activations=tensor(x), count=5, order_by=order)
    )
    assert answer.rows == 40
    got = [each.feature for each in answer.features]
    np.testing.assert_allclose(by[got], np.sort(by)[::-1][:5], rtol=1e-5)
    for each in answer.features:
        column = f_BF[:, each.feature]
        assert each.rows == (column != 0).sum()
        assert (each.max, each.mean) == pytest.approx((column.max(), column.mean()), rel=1e-4)


def test_top_features_of_what_cannot_be(service: Service) -> None:
    request = pb.TopFeaturesRequest(model="topk", activations=tensor(rows(2)), order_by="size")
    assert refusal(service.stub.TopFeatures, request)[2:] == ("BAD_ORDER", "order_by")
    request = pb.TopFeaturesRequest(model="topk", activations=tensor(rows(2)), count=4097)
    assert refusal(service.stub.TopFeatures, request)[2:] == ("BAD_COUNT", "count")
    none = pb.TopFeaturesRequest(model="topk", activations=tensor(rows(0)))
    assert list(service.stub.TopFeatures(none).features) == []


def test_the_sdk_joins_what_it_has_split(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saeserve.client.inference.SPLIT_BYTES", 7 * 4 * 6)
    x, edits = rows(5, 6), [{"feature": 3, "add": 2.0}, {"feature": 4, "clamp": {"low": 1}}]
    with Client(service.address, service.address) as client:
        moved = client.steer("relu", x, edits, rows=[0, 8, 29])
        whole = steer(
            service,
            "relu",
            x,
            Edit(feature=3, add=2.0),
            clamp(4, low=1.0),
            rows=pb.RowSelection(rows=[0, 8, 29]),
        )
        np.testing.assert_allclose(moved.activations, dense(whole.activations), atol=1e-6)
        assert moved.rows_by_edit == tuple(whole.rows_by_edit)
        assert moved.rows_changed == 3
        with pytest.raises(InvalidArgumentError, match="NaN"):
            client.steer("relu", x, [{"feature": 3, "add": NAN}])
        with pytest.raises(InvalidArgumentError) as caught:
            client.steer("relu", x, [{"feature": 3, "adds": 1}])
        assert caught.value.field == "edits[0].adds"
        with pytest.raises(InvalidArgumentError, match="no row 30"):
            client.steer("relu", x, edits, rows=[30])
        near = client.inference.neighbours("relu", [3], count=2)
        W_FO = service.models["relu"].W_dec
        assert near[3][0].feature == int((W_FO @ W_FO[3] - 3 * torch.eye(20)[3]).argmax())
        assert client.inference.top_features("relu", x, count=1)[0].rows > 0
