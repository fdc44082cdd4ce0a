"""The inference service over gRPC, with published models and no Redis anywhere."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fakes.inference_server import (
    BF16,
    F16,
    INVALID,
    MODELS,
    Service,
    dense,
    expected_features,
    features_of,
    refusal,
    rows,
    tensor,
)
from tests.fakes.small_model import small_model

from saeserve.core.export.format import save_model
from saeserve.core.formats.model import (
    TopKActivation,
)
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import tensor_pb2


@pytest.mark.parametrize("name", MODELS)
def test_encode_equals_the_model(service: Service, name: str) -> None:
    x = rows(2, 5)
    answer = service.stub.Encode(pb.EncodeRequest(model=name, activations=tensor(x)))
    assert list(answer.features.shape) == [2, 5, 20]
    expected = expected_features(service.models[name], x)
    np.testing.assert_allclose(features_of(answer.features), expected, atol=1e-5)


def test_rows_of_k_features_come_without_offsets(service: Service) -> None:
    x = rows(200)
    expected = expected_features(service.models["topk"], x)
    full = x[(expected != 0).sum(axis=1) == 4]
    assert len(full) > 0
    answer = service.stub.Encode(pb.EncodeRequest(model="topk", activations=tensor(full)))
    assert (answer.features.offsets, answer.features.fixed_k) == (b"", 4)
    assert len(answer.features.indices) == len(full) * 4 * 2


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_half_precision_activations_are_widened(
    service: Service, dtype: tensor_pb2.DataType.ValueType
) -> None:
    x = rows(4)
    x = (x.view(np.uint32) & 0xFFFF0000).view(np.float32) if dtype == BF16 else x
    widened = x if dtype == BF16 else x.astype(np.float16).astype(np.float32)
    answer = service.stub.Encode(pb.EncodeRequest(model="relu", activations=tensor(x, dtype)))
    expected = expected_features(service.models["relu"], widened)
    np.testing.assert_allclose(features_of(answer.features), expected, atol=1e-5)


def test_values_may_come_as_f16(service: Service) -> None:
    request = pb.EncodeRequest(model="topk", activations=tensor(rows(4)), values_dtype=F16)
    answer = service.stub.Encode(request)
    assert answer.features.values_dtype == F16
    assert len(answer.features.values) == len(answer.features.indices)
    expected = expected_features(service.models["topk"], rows(4))
    np.testing.assert_allclose(features_of(answer.features), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_decode_of_encode_is_reconstruct(service: Service, name: str) -> None:
    x = rows(3, 4)
    encoded = service.stub.Encode(pb.EncodeRequest(model=name, activations=tensor(x)))
    decoded = service.stub.Decode(pb.DecodeRequest(model=name, features=encoded.features))
    whole = service.stub.Reconstruct(pb.ReconstructRequest(model=name, activations=tensor(x)))
    flat = torch.as_tensor(x.reshape(-1, 6).copy())
    expected = service.models[name].reconstruct(flat).numpy().reshape(3, 4, 6)
    np.testing.assert_allclose(dense(decoded.activations), expected, atol=1e-5)
    np.testing.assert_allclose(dense(whole.activations), expected, atol=1e-5)
    share = 1 - np.square(x - expected).sum() / np.square(x - x.mean(axis=(0, 1))).sum()
    assert whole.explained_variance == pytest.approx(share, rel=1e-4)


def test_a_crosscoder_takes_its_sources_side_by_side(service: Service) -> None:
    model, x = service.models["crosscoder"], rows(30)
    encoded = service.stub.Encode(pb.EncodeRequest(model="crosscoder", activations=tensor(x)))
    np.testing.assert_allclose(
        features_of(encoded.features), expected_features(model, x), atol=1e-5
    )
    whole = service.stub.Reconstruct(
        pb.ReconstructRequest(model="crosscoder", activations=tensor(x))
    )
    expected = model.reconstruct(torch.as_tensor(x.copy())).numpy()
    np.testing.assert_allclose(dense(whole.activations), expected, atol=1e-5)
    assert math.isfinite(whole.explained_variance)


def test_a_skip_connection_is_reconstructed_but_not_decoded(service: Service) -> None:
    x = rows(5)
    whole = service.stub.Reconstruct(pb.ReconstructRequest(model="skip", activations=tensor(x)))
    expected = service.models["skip"].reconstruct(torch.as_tensor(x.copy())).numpy()
    np.testing.assert_allclose(dense(whole.activations), expected, atol=1e-5)
    assert math.isnan(whole.explained_variance)
    encoded = service.stub.Encode(pb.EncodeRequest(model="skip", activations=tensor(x)))
    request = pb.DecodeRequest(model="skip", features=encoded.features)
    code, text, reason, field = refusal(service.stub.Decode, request)
    assert (code, reason, field) == (INVALID, "NEEDS_INPUT", "features")
    assert "call Reconstruct" in text


def test_reconstructions_may_come_in_half_precision(service: Service) -> None:
    for dtype, tolerance in ((F16, 1e-2), (BF16, 1e-1)):
        request = pb.ReconstructRequest(
            model="topk", activations=tensor(rows(3)), output_dtype=dtype
        )
        answer = service.stub.Reconstruct(request)
        bits = np.frombuffer(answer.activations.data, "<u2")
        got = bits.view("<f2").astype(np.float32)
        if dtype == BF16:
            got = (bits.astype(np.uint32) << 16).view(np.float32)
        expected = service.models["topk"].reconstruct(torch.as_tensor(rows(3))).numpy()
        np.testing.assert_allclose(got.reshape(3, 6), expected, atol=tolerance)


def test_one_row_has_no_explained_variance(service: Service) -> None:
    request = pb.ReconstructRequest(model="topk", activations=tensor(rows()))
    answer = service.stub.Reconstruct(request)
    assert list(answer.activations.shape) == [6]
    assert math.isnan(answer.explained_variance)


def test_no_rows_give_no_features(service: Service) -> None:
    x = rows(2, 0)
    encoded = service.stub.Encode(pb.EncodeRequest(model="topk", activations=tensor(x)))
    assert list(encoded.features.shape) == [2, 0, 20]
    decoded = service.stub.Decode(pb.DecodeRequest(model="topk", features=encoded.features))
    assert list(decoded.activations.shape) == [2, 0, 6]


def test_a_request_larger_than_a_batch_comes_back_whole(service: Service) -> None:
    x = rows(100)
    answer = service.stub.Encode(pb.EncodeRequest(model="threshold", activations=tensor(x)))
    expected = expected_features(service.models["threshold"], x)
    np.testing.assert_allclose(features_of(answer.features), expected, atol=1e-5)
    assert answer.execution.batch_rows == 16


def test_the_answer_tells_how_it_was_served(service: Service) -> None:
    request = pb.EncodeRequest(model="topk@1", activations=tensor(rows(3)))
    execution = service.stub.Encode(request).execution
    assert execution.resolved_model == "models/topk/versions/1"
    assert execution.compute_time.ToNanoseconds() > 0
    assert execution.queue_time.ToNanoseconds() >= 0
    assert execution.batch_rows >= 3


def test_many_callers_at_once_each_get_their_own(service: Service) -> None:
    def ask(seed: int) -> bool:
        x = rows(seed % 7 + 1, seed=seed)
        request = pb.EncodeRequest(model="relu", activations=tensor(x))
        features = features_of(service.stub.Encode(request).features)
        expected = expected_features(service.models["relu"], x)
        return features.shape == expected.shape and np.allclose(features, expected, atol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(60)))


def test_a_moved_alias_and_a_new_version_are_seen(service: Service, tmp_path: Path) -> None:
    save_model(small_model(TopKActivation(k=2), seed=5), tmp_path / "new")
    service.registry.publish("moving", "j-one", 0, tmp_path / "new")
    service.registry.set_alias("moving", "prod", 1)

    def resolved(reference: str) -> str:
        request = pb.EncodeRequest(model=reference, activations=tensor(rows(1)))
        return service.stub.Encode(request).execution.resolved_model

    assert [resolved("moving"), resolved("moving@prod")] == ["models/moving/versions/1"] * 2
    service.registry.publish("moving", "j-two", 0, tmp_path / "new")
    assert resolved("moving") == "models/moving/versions/2"
    assert resolved("moving@prod") == "models/moving/versions/1"
    service.registry.set_alias("moving", "prod", 2)
    assert resolved("moving@prod") == "models/moving/versions/2"
