"""Encoding by recordings: the same answers, two in flight, and nothing that is not trusted."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import numpy as np
import pytest
from tests.fakes.graphs import RerunGraphs
from tests.fakes.later_device import LateReturn, SmallEncoder
from tests.fakes.small_model import small_model

from saeserve.core.export import recorded
from saeserve.core.export.device_model import DeviceModel
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.recorded import LARGEST, MOST, WARM, RecordedEncoder
from saeserve.core.formats.model import ReluActivation, ThresholdActivation, TopKActivation
from saeserve.inference.engine import TorchEngine
from saeserve.inference.rows import DenseRows, FeatureRows, Rows
from saeserve.inference.staged import StagedEngine
from saeserve.inference.work import Operation

RANDOM = np.random.default_rng(0)
ROOM = 40
MODELS: dict[str, InferenceModel] = {
    "topk": small_model(TopKActivation(k=4)),
    "threshold": small_model(ThresholdActivation()),
    "relu": small_model(ReluActivation()),
}


class Roomy(SmallEncoder):
    """Has as much room as ever."""

    def note(self, needed: float) -> None:
        del needed


def recording(model: InferenceModel, graphs: RerunGraphs) -> tuple[DeviceModel, RecordedEncoder]:
    encoder = RecordedEncoder(Roomy(model, room=ROOM), graphs)
    threshold = model.threshold
    tensors: dict[str, Any] = {n: t for n, t in model.tensors.items() if n != "threshold"}
    there = DeviceModel(config=model.config, threshold=threshold, encoder=encoder, **tensors)
    return there, encoder


def some(rows: int) -> list[Rows]:
    return [DenseRows(RANDOM.normal(size=(rows, 6)).astype(np.float32))]


def same(found: Rows, model: InferenceModel, parts: list[Rows]) -> None:
    """What one stage answers, with as many rows as were sent."""
    wanted = TorchEngine().begin(model, Operation.ENCODE, parts)()
    assert isinstance(found, FeatureRows)
    assert isinstance(wanted, FeatureRows)
    np.testing.assert_array_equal(found.offsets, wanted.offsets)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_batches_of_a_bucket_are_replayed_and_answered_alike(name: str) -> None:
    graphs, engine = RerunGraphs(), StagedEngine(LateReturn())
    there, encoder = recording(MODELS[name], graphs)
    # More rows than later: what the memory held before is not encoded again.
    for rows in (8, 8, 8, 8, 5, 7, 8, 6):
        parts = some(rows)
        same(engine.begin(there, Operation.ENCODE, parts)(), MODELS[name], parts)
    assert (graphs.captured, encoder.replays) == (1, 8 - WARM)


def test_two_in_flight_have_memory_of_their_own() -> None:
    engine, graphs = StagedEngine(LateReturn()), RerunGraphs()
    there, encoder = recording(MODELS["topk"], graphs)
    for rows in (4, 8) * WARM:
        engine.begin(there, Operation.ENCODE, some(rows))()
    for sizes in ((4, 4), (3, 8), (8, 7)):
        requests = [some(rows) for rows in sizes]
        answers = [engine.begin(there, Operation.ENCODE, parts) for parts in requests]
        for answer, parts in zip(answers, requests, strict=True):
            same(answer(), MODELS["topk"], parts)
    assert encoder.replays == 6


def test_a_model_that_is_dropped_lives_until_its_batch_is_answered() -> None:
    engine, graphs = StagedEngine(LateReturn()), RerunGraphs()
    there, encoder = recording(MODELS["topk"], graphs)
    for _ in range(WARM):
        engine.begin(there, Operation.ENCODE, some(4))()
    parts = some(4)
    answer, alive = engine.begin(there, Operation.ENCODE, parts), weakref.ref(graphs)
    assert encoder.replays == 1
    del there, encoder, graphs
    gc.collect()
    assert alive() is not None
    same(answer(), MODELS["topk"], parts)
    del answer
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("graphs", "why"),
    [
        (RerunGraphs(wrong=1), "comes to something else"),
        (RerunGraphs(error=MemoryError("too little room")), "MemoryError: too little room"),
    ],
    ids=["wrong", "refused"],
)
def test_what_is_not_trusted_is_not_used_and_said(
    graphs: RerunGraphs, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = StagedEngine(LateReturn())
    there, encoder = recording(MODELS["topk"], graphs)
    with caplog.at_level(logging.WARNING):
        for _ in range(2 * WARM):
            parts = some(4)
            same(engine.begin(there, Operation.ENCODE, parts)(), MODELS["topk"], parts)
    assert (encoder.replays, encoder.graphs, encoder.size_bytes) == (0, None, 1000)
    (said,) = [r.getMessage() for r in caplog.records if "GRAPHS_OFF" in r.getMessage()]
    assert "the host may be slower" in said
    assert why in said


def test_a_room_that_changes_meanwhile_is_another_time() -> None:
    graphs = RerunGraphs()
    _, encoder = recording(MODELS["relu"], graphs)
    small = encoder.encoder
    assert isinstance(small, Roomy)
    x_BD = small.model.W_enc.new_ones(4, 6)
    for _ in range(WARM - 1):
        encoder.encode(x_BD)
    capture = graphs.capture

    def meanwhile(work: Any) -> Any:  # noqa: ANN401 - passed on
        small.room += 1
        return capture(work)

    graphs.capture = meanwhile
    encoder.encode(x_BD)
    assert encoder.graphs is graphs
    small.room, graphs.capture = ROOM, capture
    encoder.encode(x_BD)
    encoder.encode(x_BD)
    assert encoder.replays == 1


def test_buckets_and_recordings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MOST", 2)
    graphs = RerunGraphs()
    _, encoder = recording(MODELS["topk"], graphs)
    weights = MODELS["topk"].W_enc
    for rows in (1, 2, 3, 4, LARGEST + 1):
        for _ in range(WARM):
            encoder.encode(weights.new_ones(rows, 6))
    # 1, 2 and 4 rows; the last bucket of 4 was known already, and the largest is none.
    assert graphs.captured == 3
    assert encoder.replays == WARM
    encoder.encode(weights.new_ones(1, 6))
    assert graphs.captured == 4
    assert LARGEST.bit_length() <= MOST


def test_recordings_count_in_the_models_size() -> None:
    graphs = RerunGraphs()
    there, encoder = recording(MODELS["topk"], graphs)
    before = there.size_bytes
    for _ in range(WARM):
        encoder.encode(there.W_enc.new_ones(4, 6))
    assert there.size_bytes == before + 1000
