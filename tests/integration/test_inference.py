"""The inference service over gRPC, with published models and no Redis anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
import torch
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.fakes.small_model import small_model

from saeserve.core.export.format import save_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.ops.sparse import to_dense
from saeserve.core.specs.model import (
    ReluActivation,
    TensorSource,
    ThresholdActivation,
    TopKActivation,
)
from saeserve.inference.features import feature_rows
from saeserve.inference.rows import FloatArray
from saeserve.inference.server import Running, running
from saeserve.inference.servicer import NAME
from saeserve.inference.settings import InferenceSettings
from saeserve.platform.store import ArtifactStore
from saeserve.registry.models import ModelRegistry
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import inference_service_pb2_grpc as pb_grpc
from saeserve.v1 import tensor_pb2

F32, F16, BF16 = tensor_pb2.DATA_TYPE_F32, tensor_pb2.DATA_TYPE_F16, tensor_pb2.DATA_TYPE_BF16
MODELS = {
    "topk": TopKActivation(k=4),
    "threshold": ThresholdActivation(),
    "relu": ReluActivation(),
}


@dataclass(frozen=True)
class Service:
    """A running service, a client of it, and what it serves."""

    stub: Any
    channel: grpc.Channel
    registry: ModelRegistry
    models: dict[str, InferenceModel]
    metrics: str


@contextlib.contextmanager
def in_thread(settings: InferenceSettings) -> Generator[Running]:
    """The service in an event loop of its own, as in a process of its own."""
    started: Future[tuple[Running, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        async with running(settings) as parts:
            stop = asyncio.Event()
            started.set_result((parts, asyncio.get_running_loop(), stop))
            await stop.wait()

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(lambda: asyncio.run(serve()))
        served.add_done_callback(lambda done: _tell(done, started))
        parts, loop, stop = started.result(60)
        try:
            yield parts
        finally:
            loop.call_soon_threadsafe(stop.set)
            served.result(60)


def _tell(served: Future[None], started: Future[Any]) -> None:
    error = served.exception()
    if error is not None and not started.done():
        started.set_exception(error)


def settings_of(store: Path, batch_rows: int = 4096) -> InferenceSettings:
    return InferenceSettings(
        store=store,
        inference_address="127.0.0.1:0",
        inference_metrics_address="127.0.0.1:0",
        inference_device="cpu",
        inference_threads=1,
        inference_max_batch_rows=batch_rows,
        grace_seconds=1,
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("inference")
    registry = ModelRegistry(ArtifactStore(root / "store"))
    models = {name: small_model(activation) for name, activation in MODELS.items()}
    models |= {"crosscoder": crosscoder(), "skip": skip_transcoder()}
    for name, model in models.items():
        save_model(model, root / name)
        registry.publish(name, "j-test", 0, root / name)
    settings = settings_of(root / "store", batch_rows=16)
    with in_thread(settings) as parts, grpc.insecure_channel(parts.server.bound) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        yield Service(stub, channel, registry, models, f"http://{parts.metrics.address}/metrics")


def crosscoder() -> InferenceModel:
    """Two sources of 2 and 4 columns, chosen from by weighted top-k."""
    sources = (TensorSource(name="a", offset=0, d=2), TensorSource(name="b", offset=2, d=4))
    model = small_model(TopKActivation(k=4, weighted=True), seed=3)
    config = model.config.model_copy(update={"inputs": sources, "outputs": sources})
    return dataclasses.replace(model, config=config, selection=torch.linspace(0.1, 5, 20))


def skip_transcoder() -> InferenceModel:
    """From one source of 6 columns to another."""
    model = small_model(ReluActivation(), seed=4)
    output = TensorSource(name="mlp_out.0", offset=0, d=6)
    config = model.config.model_copy(update={"outputs": (output,), "skip_connection": True})
    return dataclasses.replace(model, config=config, W_skip=torch.eye(6) * 2 + 0.1)


def rows(*leading: int, seed: int = 1, d: int = 6) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(*leading, d)).astype(np.float32)


def tensor(x: FloatArray, dtype: tensor_pb2.DataType.ValueType = F32) -> tensor_pb2.Tensor:
    data = {
        F32: lambda: x.tobytes(),
        F16: lambda: x.astype("<f2").tobytes(),
        BF16: lambda: (x.view(np.uint32) >> 16).astype("<u2").tobytes(),
    }[dtype]()
    return tensor_pb2.Tensor(dtype=dtype, shape=x.shape, data=data)


def dense(tensor: tensor_pb2.Tensor) -> FloatArray:
    assert tensor.dtype == F32
    return np.frombuffer(tensor.data, "<f4").reshape(tuple(tensor.shape))


def features_of(message: tensor_pb2.SparseFeatures) -> FloatArray:
    """Dense [rows, d_sae] of a CSR message."""
    features = feature_rows(message, "features")
    filled = np.zeros((features.rows, features.d_sae), np.float32)
    numbers = np.repeat(np.arange(features.rows), np.diff(features.offsets))
    filled[numbers, features.indices] = features.values
    return filled


def expected_features(model: InferenceModel, x: FloatArray) -> FloatArray:
    return to_dense(model.encode(torch.as_tensor(x.reshape(-1, 6).copy()))).numpy()


def refusal(call: Callable[..., object], request: Message) -> tuple[grpc.StatusCode, str, str, str]:
    """Code, message, reason and field of a refused call."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    error = cast(Any, caught.value)
    packed = status_pb2.Status.FromString(
        dict(error.trailing_metadata())["grpc-status-details-bin"]
    )
    info = error_details_pb2.ErrorInfo()
    assert packed.details[0].Unpack(info)
    return error.code(), error.details(), info.reason, info.metadata.get("field", "")


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


INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("request_message", "expected", "text"),
    [
        (
            pb.EncodeRequest(model="topk", activations=tensor(rows(2, d=5))),
            (INVALID, "WIDTH_MISMATCH", "activations.shape"),
            "models/topk/versions/1 has d_in = 6, the request 5",
        ),
        (
            pb.EncodeRequest(model="topk", activations=tensor(rows(2) * np.float32(np.nan))),
            (INVALID, "NOT_FINITE", "activations.data"),
            "row 0, column 0 is nan",
        ),
        (
            pb.EncodeRequest(model="topk", activations=tensor(rows(2)), values_dtype=BF16),
            (INVALID, "BAD_TYPE", "values_dtype"),
            "choose one of F32, F16",
        ),
        (
            pb.EncodeRequest(activations=tensor(rows(2))),
            (INVALID, "NO_MODEL", "model"),
            "no model is named",
        ),
        (
            pb.EncodeRequest(model="topk", activations=tensor(rows(2) + np.float32(3e38))),
            (INVALID, "OVERFLOW", "activations.data"),
            "leaves float32",
        ),
        (
            pb.EncodeRequest(
                model="topk", activations=tensor(rows(2) * np.float32(1e6)), values_dtype=F16
            ),
            (INVALID, "OVERFLOW", "values_dtype"),
            "ask for F32",
        ),
        (
            pb.EncodeRequest(model="none", activations=tensor(rows(2))),
            (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "model"),
            "there is no model none",
        ),
        (
            pb.EncodeRequest(model="topk@7", activations=tensor(rows(2))),
            (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "model"),
            "model topk has no version 7",
        ),
    ],
)
def test_bad_requests_are_refused_by_name(
    service: Service,
    request_message: pb.EncodeRequest,
    expected: tuple[grpc.StatusCode, str, str],
    text: str,
) -> None:
    code, message, reason, field = refusal(service.stub.Encode, request_message)
    assert (code, reason, field) == expected
    assert text in message


def test_features_of_another_width_are_refused(service: Service) -> None:
    features = tensor_pb2.SparseFeatures(
        shape=[1, 21], index_type=tensor_pb2.INDEX_TYPE_U16, values_dtype=F32
    )
    request = pb.DecodeRequest(model="topk", features=features)
    code, message, _, field = refusal(service.stub.Decode, request)
    assert (code, field) == (INVALID, "features.shape")
    assert "has d_sae = 20, the request 21" in message


def test_a_small_request_for_a_huge_answer_is_refused(service: Service) -> None:
    features = tensor_pb2.SparseFeatures(
        shape=[2**23, 20], index_type=tensor_pb2.INDEX_TYPE_U16, values_dtype=F32
    )
    request = pb.DecodeRequest(model="topk", features=features)
    assert refusal(service.stub.Decode, request)[2] == "TOO_LARGE"


def test_health_and_reflection(service: Service) -> None:
    health: Any = health_pb2_grpc.HealthStub(service.channel)
    for name in ("", NAME):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (listed,) = reflection.ServerReflectionInfo(iter([request]))
    names = {each.name for each in listed.list_services_response.service}
    assert NAME in names


def test_metrics_tell_what_was_served(service: Service) -> None:
    service.stub.Encode(pb.EncodeRequest(model="topk", activations=tensor(rows(3))))
    with urlopen(service.metrics) as answer:
        text = answer.read().decode()
    for line in (
        f'saeserve_grpc_requests_total{{code="OK",method="Encode",service="{NAME}"}}',
        "saeserve_encode_rows_total",
        "saeserve_batch_rows_bucket",
        "saeserve_queue_rows 0.0",
        "saeserve_queue_wait_seconds_count",
        'saeserve_stage_seconds_count{stage="compute"}',
        'saeserve_stage_seconds_count{stage="parse"}',
        'saeserve_model_loads_total{result="ok"}',
        "saeserve_models_resident_bytes",
    ):
        assert line in text, line


def test_a_damaged_model_is_a_failed_precondition(tmp_path: Path) -> None:
    registry = ModelRegistry(ArtifactStore(tmp_path / "store"))
    save_model(small_model(TopKActivation(k=2)), tmp_path / "model")
    registry.publish("hurt", "j-test", 0, tmp_path / "model")
    tensors = registry.resolve("hurt").folder / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    request = pb.EncodeRequest(model="hurt", activations=tensor(rows(1)))
    with (
        in_thread(settings_of(tmp_path / "store")) as parts,
        grpc.insecure_channel(parts.server.bound) as channel,
    ):
        stub: Any = pb_grpc.InferenceServiceStub(channel)
        code, _, reason, _ = refusal(stub.Encode, request)
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BAD_FORMAT")


def process(tmp_path: Path, **settings: str) -> subprocess.Popen[str]:
    given = {
        "STORE": str(tmp_path),
        "INFERENCE_ADDRESS": "127.0.0.1:0",
        "INFERENCE_METRICS_ADDRESS": "127.0.0.1:0",
        "INFERENCE_DEVICE": "cpu",
        **settings,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "saeserve.inference"],
        env=os.environ | {f"SAESERVE_{name}": value for name, value in given.items()},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_process_says_that_it_is_ready_and_ends_on_sigterm(tmp_path: Path) -> None:
    with process(tmp_path) as running_process:
        assert running_process.stderr is not None
        line = running_process.stderr.readline()
        assert " ready address=127.0.0.1:" in line
        running_process.send_signal(signal.SIGTERM)
        assert running_process.wait(30) == 0
        assert running_process.stderr.read() == ""


def test_a_process_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    with process(tmp_path, INFERENCE_ADDRESS="0.0.0.0:0") as refused:
        assert refused.wait(60) == 2
        assert refused.stderr is not None
        text = refused.stderr.read()
        assert text.startswith("saeserve inference: 0.0.0.0:0 can be reached")
        assert text.count("\n") == 1
