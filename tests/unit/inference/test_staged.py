"""The engine of a device: the same answers as in one stage, whichever way rows are sent."""

from __future__ import annotations

import asyncio
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tests.fakes.inference_server import crosscoder, skip_transcoder
from tests.fakes.later_device import LaterDevice, SmallEncoder
from tests.fakes.small_model import small_model

from saeserve.core.export.device_model import DeviceModel, placed
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import (
    ReluActivation,
    RowNorm,
    ThresholdActivation,
    TopKActivation,
)
from saeserve.errors import InvalidInput, Overloaded
from saeserve.inference.batcher import Batcher
from saeserve.inference.engine import TorchEngine
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.rows import DenseRows, FeatureRows, Rows, SentArray
from saeserve.inference.staged import StagedEngine
from saeserve.inference.work import Operation, Served

RANDOM = np.random.default_rng(0)


def normalising() -> InferenceModel:
    model = small_model(TopKActivation(k=4))
    norm = RowNorm(kind="layer_norm", eps=1e-5, ddof=1)
    return dataclasses.replace(model, config=model.config.model_copy(update={"row_norm": norm}))


def little_room(model: InferenceModel) -> DeviceModel:
    encoder = SmallEncoder(model)
    return DeviceModel(config=model.config, threshold=None, encoder=encoder, **model.tensors)


MODELS = {
    "topk": small_model(TopKActivation(k=4)),
    "threshold": small_model(ThresholdActivation()),
    "relu": small_model(ReluActivation()),
    "weighted": crosscoder(),
    "skip": skip_transcoder(),
    "normalising": normalising(),
    "little_room": little_room(small_model(ReluActivation())),
}


def sent(rows: int, kind: str) -> SentArray:
    x = RANDOM.normal(size=(rows, 6)).astype(np.float32)
    if kind == "float16":
        return x.astype(np.float16)
    return x if kind == "float32" else (x.view(np.uint32) >> 16).astype(np.uint16)


def same(mine: Rows, other: Rows) -> None:
    assert mine.rows == other.rows
    if isinstance(mine, DenseRows) and isinstance(other, DenseRows):
        np.testing.assert_allclose(mine.x, other.x, rtol=1e-5, atol=1e-6)
        return
    assert isinstance(mine, FeatureRows)
    assert isinstance(other, FeatureRows)
    np.testing.assert_array_equal(mine.offsets, other.offsets)
    np.testing.assert_array_equal(mine.indices, other.indices)
    # Blocks of other sizes may be summed in another order.
    np.testing.assert_allclose(mine.values, other.values, rtol=1e-5)
    assert mine.indices.dtype == other.indices.dtype
    assert (mine.statistics is None) == (other.statistics is None)
    if mine.statistics is not None and other.statistics is not None:
        np.testing.assert_allclose(mine.statistics, other.statistics, rtol=1e-5)


def in_one_stage(model: InferenceModel, operation: Operation, parts: list[Rows]) -> Rows:
    return TorchEngine().begin(model, operation, parts)()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kinds", [("float32",), ("bfloat16", "bfloat16"), ("float16", "float32")])
def test_answers_are_those_of_one_stage(name: str, kinds: tuple[str, ...]) -> None:
    model, engine = MODELS[name], StagedEngine(LaterDevice())
    parts: list[Rows] = [DenseRows(sent(5 + i, kind)) for i, kind in enumerate(kinds)]
    features = in_one_stage(model, Operation.ENCODE, parts)
    same(engine.begin(model, Operation.ENCODE, parts)(), features)
    reconstructed = in_one_stage(model, Operation.RECONSTRUCT, parts)
    same(engine.begin(model, Operation.RECONSTRUCT, parts)(), reconstructed)
    if not model.config.skip_connection:
        decoded = in_one_stage(model, Operation.DECODE, [features, features])
        same(engine.begin(model, Operation.DECODE, [features, features])(), decoded)


@pytest.mark.parametrize("name", MODELS)
def test_no_rows_have_no_features(name: str) -> None:
    engine, none = StagedEngine(LaterDevice()), DenseRows(np.zeros((0, 6), np.float32))
    answer = engine.begin(MODELS[name], Operation.ENCODE, [none])()
    assert isinstance(answer, FeatureRows)
    assert (answer.rows, len(answer.values)) == (0, 0)


def test_features_that_do_not_fit_are_computed_once_more_with_room() -> None:
    model, engine = little_room(small_model(ReluActivation())), StagedEngine(LaterDevice())
    assert isinstance(model.encoder, SmallEncoder)
    parts: list[Rows] = [DenseRows(sent(10, "float32"))]
    for _ in range(2):
        answer = engine.begin(model, Operation.ENCODE, parts)()
        same(answer, in_one_stage(model, Operation.ENCODE, parts))
    assert len(model.encoder.rooms) == 3
    assert model.encoder.rooms[0] == 0 < model.encoder.rooms[1] == model.encoder.rooms[2]


def test_a_model_is_as_large_as_its_encoder_makes_it() -> None:
    plain = small_model(ReluActivation())
    assert little_room(plain).size_bytes == plain.size_bytes + 1000
    assert little_room(plain).tensors.keys() == plain.tensors.keys()
    assert not isinstance(placed(plain, plain.device), DeviceModel)


def test_two_batches_are_in_flight_and_keep_their_memory() -> None:
    async def scenario() -> None:
        device = LaterDevice()
        batcher = Batcher(
            StagedEngine(device),
            InferenceMetrics(CollectorRegistry()),
            queue_rows=100,
            max_batch_rows=4,
            max_result_bytes=2**20,
        )
        device.gate.clear()
        model = MODELS["topk"]
        requests = [DenseRows(sent(4, "float32")) for _ in range(5)]

        def ask(rows: DenseRows) -> asyncio.Task[Served]:
            work = batcher.submit("m", model, Operation.ENCODE, rows, None)
            return asyncio.ensure_future(work)

        tasks = [ask(rows) for rows in requests]
        for _ in range(2):
            assert await asyncio.to_thread(device.started.acquire, timeout=30)
        # A third one waits for a place.
        assert not await asyncio.to_thread(device.started.acquire, timeout=0.2)
        device.gate.set()
        for rows, task in zip(requests, tasks, strict=True):
            same((await task).rows, in_one_stage(model, Operation.ENCODE, [rows]))
        await batcher.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_place_is_free_when_its_answer_has_been_read() -> None:
    device, model = LaterDevice(), MODELS["topk"]
    engine = StagedEngine(device)
    requests = [DenseRows(sent(4, "float32")) for _ in range(3)]
    with ThreadPoolExecutor(1) as thread:
        begun = [thread.submit(engine.begin, model, Operation.ENCODE, [rows]) for rows in requests]
        answers = [begun[i].result(30) for i in range(2)]
        with pytest.raises(TimeoutError):
            begun[2].result(0.2)
        same(answers[0](), in_one_stage(model, Operation.ENCODE, [requests[0]]))
        last = begun[2].result(30)
    for rows, answer in zip(requests[1:], (answers[1], last), strict=True):
        same(answer(), in_one_stage(model, Operation.ENCODE, [rows]))


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: out of memory"), MemoryError()], ids=repr
)
def test_batches_that_find_no_memory_leave_their_places(error: Exception) -> None:
    device = LaterDevice()
    engine, parts = StagedEngine(device), list[Rows]([DenseRows(sent(2, "float32"))])
    device.error = error
    for _ in range(5):
        with pytest.raises(Overloaded, match="no memory for 2 rows"):
            engine.begin(MODELS["topk"], Operation.ENCODE, parts)()
    device.error = None
    answer = engine.begin(MODELS["topk"], Operation.ENCODE, parts)()
    same(answer, in_one_stage(MODELS["topk"], Operation.ENCODE, parts))


@pytest.mark.parametrize("operation", [Operation.ENCODE, Operation.RECONSTRUCT])
@pytest.mark.parametrize("name", ["topk", "relu"])
def test_results_beyond_float32_are_refused(name: str, operation: Operation) -> None:
    x = np.full((2, 6), 3e38, np.float32)
    x[:, ::2] *= -1
    with pytest.raises(InvalidInput, match="leaves float32"):
        StagedEngine(LaterDevice()).begin(MODELS[name], operation, [DenseRows(x)])()


def test_memory_is_made_for_the_largest_batch_and_kept() -> None:
    device = LaterDevice()
    engine = StagedEngine(device)
    for rows in (8, 8, 3, 8, 5, 8):
        parts: list[Rows] = [DenseRows(sent(rows, "float32"))]
        engine.begin(MODELS["topk"], Operation.RECONSTRUCT, parts)()
    # Two places of two buffers, none of which was made again.
    assert len(device.made) == 4
