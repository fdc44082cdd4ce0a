"""A real inference server in a thread, small models, and ways to call it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
import torch
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from tests.fakes.small_model import small_model

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import (
    ReluActivation,
    TensorSource,
    ThresholdActivation,
    TopKActivation,
)
from saeserve.core.ops.sparse import to_dense
from saeserve.inference.features import feature_rows
from saeserve.inference.rows import FloatArray
from saeserve.inference.server import Running, running
from saeserve.inference.settings import InferenceSettings
from saeserve.registry.models import ModelRegistry
from saeserve.v1 import tensor_pb2

F32, F16, BF16 = tensor_pb2.DATA_TYPE_F32, tensor_pb2.DATA_TYPE_F16, tensor_pb2.DATA_TYPE_BF16
INVALID = grpc.StatusCode.INVALID_ARGUMENT
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
    address: str


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
