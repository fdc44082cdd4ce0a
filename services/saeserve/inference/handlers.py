"""The use cases, free of gRPC: find the model, check the width, compute, measure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from saeserve.core.export.inference_model import InferenceModel
from saeserve.errors import InvalidInput
from saeserve.inference.batcher import Batcher
from saeserve.inference.checks import (
    RowNumbers,
    check_result,
    check_width,
    mismatch,
    no_rows,
    rows_beyond,
)
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.model_cache import Loaded, ModelCache
from saeserve.inference.rows import DenseRows, FeatureRows, FloatArray, Rows
from saeserve.inference.work import Operation, Served

_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Encoded:
    """Features, the version that made them, and how."""

    features: FeatureRows
    model: str
    served: Served
    beyond: RowNumbers
    """Rows beyond the model's norm bound."""


@dataclass(frozen=True)
class Decoded:
    """Reconstructions; explained_variance is NaN where it means nothing."""

    activations: DenseRows
    model: str
    served: Served
    explained_variance: float = float("nan")
    beyond: RowNumbers = field(default_factory=no_rows)
    """Numbers of rows beyond the norm limit, as in Encoded; empty for decoded features."""


class Handlers:
    """Encode, decode and reconstruct with published models."""

    def __init__(
        self,
        models: ModelCache[InferenceModel],
        batcher: Batcher[InferenceModel],
        metrics: InferenceMetrics,
    ) -> None:
        self._models = models
        self._batcher = batcher
        self._metrics = metrics

    async def encode(self, model: str, rows: DenseRows, deadline: float | None) -> Encoded:
        """Features of raw rows [rows, d_in]."""
        with self._metrics.models.call(Operation.ENCODE) as call:
            async with self._models.use(model) as loaded:
                call.resource = loaded.resource
                check_width(rows, loaded)
                served, features = await self._compute(loaded, Operation.ENCODE, rows, deadline)
            if not isinstance(features, FeatureRows):
                raise TypeError("encode gave no features; this is a bug")
            self._metrics.encode_rows.inc(rows.rows)
            beyond = await rows_beyond(loaded, rows)
            return Encoded(features, loaded.resource, served, beyond)

    async def decode(
        self, model: str, rows: FeatureRows, deadline: float | None, made_by: str = ""
    ) -> Decoded:
        """Reconstructions of features [rows, d_sae] that the version `made_by` made, where that is
        known; a skip connection would need the input."""
        with self._metrics.models.call(Operation.DECODE) as call:
            async with self._models.use(model) as loaded:
                call.resource = loaded.resource
                config = loaded.model.config
                if made_by not in ("", loaded.resource):
                    raise _of_another_model(loaded, made_by)
                if rows.d_sae != config.d_sae:
                    raise mismatch(loaded, "d_sae", config.d_sae, rows.d_sae, "features.shape")
                if config.row_norm.kind != "none" and rows.statistics is None and rows.rows:
                    raise _needs_statistics(loaded)
                if config.skip_connection:
                    raise _needs_input(loaded)
                check_result(rows.rows, config.d_out)
                served, dense = await self._compute(loaded, Operation.DECODE, rows, deadline)
            self._metrics.decode_rows.inc(rows.rows)
            return Decoded(_dense(dense), loaded.resource, served)

    async def reconstruct(self, model: str, rows: DenseRows, deadline: float | None) -> Decoded:
        """Reconstructions of raw rows, and how much of their variance they explain."""
        with self._metrics.models.call(Operation.RECONSTRUCT) as call:
            async with self._models.use(model) as loaded:
                call.resource = loaded.resource
                config = loaded.model.config
                check_width(rows, loaded)
                check_result(rows.rows, config.d_out)
                served, dense = await self._compute(loaded, Operation.RECONSTRUCT, rows, deadline)
            self._metrics.reconstruct_rows.inc(rows.rows)
            y = _dense(dense)
            beyond = await rows_beyond(loaded, rows)
            # A transcoder's target was not sent, so nothing can be said about it.
            if config.inputs != config.outputs:
                return Decoded(y, loaded.resource, served, beyond=beyond)
            share = await asyncio.to_thread(lambda: explained_variance(rows.x, y.x))
            return Decoded(y, loaded.resource, served, share, beyond)

    async def _compute(
        self,
        loaded: Loaded[InferenceModel],
        operation: Operation,
        rows: Rows,
        deadline: float | None,
    ) -> tuple[Served, Rows]:
        served = await self._batcher.submit(
            loaded.resource, loaded.model, operation, rows, deadline
        )
        return served, served.rows


def explained_variance(x: FloatArray, y: FloatArray) -> float:
    """1 - sum|x - y|^2 / sum|x - mean(x)|^2 over rows [rows, d]; NaN when x does not vary."""
    if len(x) == 0:
        return float("nan")
    mean = x.mean(axis=0, dtype=np.float64)
    error = total = 0.0
    for start in range(0, len(x), _BLOCK_ROWS):
        block = x[start : start + _BLOCK_ROWS].astype(np.float64)
        error += float(np.square(block - y[start : start + _BLOCK_ROWS]).sum())
        total += float(np.square(block - mean).sum())
    return 1.0 - error / total if total > 0 else float("nan")


def _dense(rows: Rows) -> DenseRows:
    if not isinstance(rows, DenseRows):
        raise TypeError("decoding gave no activations; this is a bug")
    return rows


def _of_another_model(loaded: Loaded[InferenceModel], made_by: str) -> InvalidInput:
    return InvalidInput(
        f"the features were made by {made_by}, and {loaded.resource} was asked to decode them",
        code="FEATURES_OF_ANOTHER_MODEL",
        field="features.model",
        remedy="decode with the version that made them, or leave features.model empty",
    )


def _needs_statistics(loaded: Loaded[InferenceModel]) -> InvalidInput:
    return InvalidInput(
        f"{loaded.resource} normalises each row, which its output undoes by the row's statistics",
        code="NEEDS_ROW_STATISTICS",
        field="features.row_means",
        remedy="send row_means and row_deviations as Encode gave them, or call Reconstruct",
    )


def _needs_input(loaded: Loaded[InferenceModel]) -> InvalidInput:
    return InvalidInput(
        f"{loaded.resource} has a skip connection: its output depends on the input itself, "
        "which features do not tell",
        code="NEEDS_INPUT",
        field="features",
        remedy="call Reconstruct with the activations",
    )
