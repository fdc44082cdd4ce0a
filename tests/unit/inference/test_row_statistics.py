"""Features of models that normalise rows carry the rows' statistics from Encode to Decode."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry
from tests.fakes.small_model import small_model

from saeserve.client.features import concatenate
from saeserve.client.tensors import from_sparse, to_sparse
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import RowNorm, TopKActivation
from saeserve.errors import InvalidInput
from saeserve.inference.batcher import Batcher
from saeserve.inference.engine import TorchEngine
from saeserve.inference.features import feature_rows, sparse_features
from saeserve.inference.handlers import Handlers
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.model_cache import Loaded, ModelCache
from saeserve.inference.rows import DenseRows, FeatureRows, FloatArray, join_features
from saeserve.inference.tensors import F32
from saeserve.inference.work import Operation
from saeserve.v1 import tensor_pb2

ROWS = np.random.default_rng(0).normal(3, 2, size=(9, 6)).astype(np.float32)


def normalising() -> InferenceModel:
    model = small_model(TopKActivation(k=4))
    norm = RowNorm(kind="layer_norm", eps=1e-5, ddof=1)
    return dataclasses.replace(model, config=model.config.model_copy(update={"row_norm": norm}))


def encoded(model: InferenceModel) -> FeatureRows:
    answer = TorchEngine().run(model, Operation.ENCODE, DenseRows(ROWS.copy()))
    assert isinstance(answer, FeatureRows)
    return answer


def decoded(model: InferenceModel, features: FeatureRows) -> FloatArray:
    answer = TorchEngine().run(model, Operation.DECODE, join_features([features]))
    assert isinstance(answer, DenseRows)
    return answer.x


def test_decode_of_the_wire_is_the_reconstruction() -> None:
    model = normalising()
    message = sparse_features(encoded(model), (9,), F32)
    assert len(message.row_means) == len(message.row_deviations) == 9 * 4
    sent = tensor_pb2.SparseFeatures.FromString(message.SerializeToString())
    expected = model.reconstruct(torch.as_tensor(ROWS)).numpy()
    np.testing.assert_allclose(decoded(model, feature_rows(sent, "f")), expected, atol=1e-5)


def test_the_client_keeps_them_through_parts() -> None:
    features = encoded(normalising())
    messages = [
        sparse_features(features.part(a, b), (b - a,), F32) for a, b in ((0, 4), (4, 4), (4, 9))
    ]
    whole = concatenate([from_sparse(message, "m", 0, 0) for message in messages], (9,))
    again = feature_rows(to_sparse(whole), "f")
    assert features.statistics is not None
    assert again.statistics is not None
    np.testing.assert_array_equal(again.statistics, features.statistics)


def test_parts_joined_are_the_whole() -> None:
    features = encoded(normalising())
    joined = join_features([features.part(0, 2), features.part(2, 2), features.part(2, 9)])
    assert features.statistics is not None
    assert joined.statistics is not None
    np.testing.assert_array_equal(joined.statistics, features.statistics)
    assert features.nbytes > dataclasses.replace(features, statistics=None).nbytes


def test_other_models_send_none() -> None:
    message = sparse_features(encoded(small_model(TopKActivation(k=4))), (9,), F32)
    assert (message.row_means, message.row_deviations) == (b"", b"")
    assert feature_rows(message, "f").statistics is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"row_deviations": b""}, "f.row_deviations.data"),
        ({"row_means": b"\0" * 35}, "f.row_means.data"),
        ({"row_means": np.full(9, np.nan, "<f4").tobytes()}, "f.row_means"),
    ],
)
def test_damaged_statistics_are_refused(changes: dict[str, bytes], field: str) -> None:
    message = sparse_features(encoded(normalising()), (9,), F32)
    for name, data in changes.items():
        setattr(message, name, data)
    with pytest.raises(InvalidInput) as caught:
        feature_rows(message, "f")
    assert caught.value.field == field


class OneModel:
    """A cache of one model."""

    @asynccontextmanager
    async def use(self, reference: str) -> AsyncGenerator[Loaded[InferenceModel]]:
        yield Loaded(reference, normalising())


def test_features_without_them_are_refused_before_the_batch() -> None:
    features = dataclasses.replace(encoded(normalising()), statistics=None)
    models = cast("ModelCache[InferenceModel]", OneModel())
    batcher = cast("Batcher[InferenceModel]", None)
    handlers = Handlers(models, batcher, InferenceMetrics(CollectorRegistry()))
    with pytest.raises(InvalidInput) as caught:
        asyncio.run(handlers.decode("m", features, None))
    assert (caught.value.code, caught.value.field) == (
        "NEEDS_ROW_STATISTICS",
        "features.row_means",
    )
