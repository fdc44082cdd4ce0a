"""The only place of this service that computes: torch on one device."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from saeserve.core.export.inference_model import InferenceModel, SparseRows
from saeserve.core.ops.sparse import RowStatistics
from saeserve.inference.refusals import outside_float32
from saeserve.inference.rows import DenseRows, FeatureRows, FloatArray, Rows, index_type, join
from saeserve.inference.work import Operation
from saeserve.platform.exhaustion import exhausted, overloaded
from saeserve.platform.startup_errors import no_device


class TorchEngine:
    """Runs InferenceModels in one stage: a batch is computed when it is begun."""

    in_flight = 1
    takes_sent_types = False

    def begin(
        self, model: InferenceModel, operation: Operation, parts: Sequence[Rows]
    ) -> Callable[[], Rows]:
        """Compute the batch. Raises what `run` raises."""
        answer = self.run(model, operation, join(parts))
        return lambda: answer

    def run(self, model: InferenceModel, operation: Operation, rows: Rows) -> Rows:
        """One row of answer for each of `rows`, which must own writable memory.

        Raises InvalidInput when finite rows leave float32 on the way, Overloaded when the device
        has no memory for the batch.
        """
        with refusing_exhaustion(rows.rows), torch.inference_mode():
            return _run(model, operation, rows)


@contextmanager
def refusing_exhaustion(rows: int) -> Generator[None]:
    """Raise Overloaded where a batch of so many rows finds no memory."""
    try:
        yield
    except Exception as error:
        if (memory := exhausted(error)) is None:
            raise
        remedy = "retry, or lower SAESERVE_INFERENCE_MAX_BATCH_ROWS"
        raise overloaded(memory, f"{rows} rows", remedy) from error


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here. Raises StartupError."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise no_device(
            "torch finds no CUDA device",
            remedy="set SAESERVE_INFERENCE_DEVICE=cpu, or install a CUDA build of torch",
        )
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def _run(model: InferenceModel, operation: Operation, rows: Rows) -> Rows:
    match operation, rows:
        case Operation.ENCODE, DenseRows(x):
            return _to_features(model.encode(torch.as_tensor(x)))
        case Operation.RECONSTRUCT, DenseRows(x):
            return DenseRows(_to_numpy(model.reconstruct(torch.as_tensor(x))))
        case Operation.DECODE, FeatureRows():
            return DenseRows(_to_numpy(model.decode(sparse_rows(rows))))
        case _:
            raise TypeError(f"{operation} does not take {type(rows).__name__}; this is a bug")


def sparse_rows(rows: FeatureRows) -> SparseRows:
    """The features of the wire as torch's, on the CPU."""
    return SparseRows(
        offsets=torch.as_tensor(rows.offsets),
        latents=torch.as_tensor(rows.indices.astype(np.int64)),
        values=torch.as_tensor(rows.values),
        d_sae=rows.d_sae,
        statistics=_from_statistics(rows.statistics),
    )


def _to_features(features: SparseRows) -> FeatureRows:
    return FeatureRows(
        offsets=features.offsets.cpu().numpy(),
        indices=features.latents.cpu().numpy().astype(index_type(features.d_sae)),
        values=_to_numpy(features.values),
        d_sae=features.d_sae,
        statistics=_to_statistics(features.statistics),
    )


def _from_statistics(statistics: FloatArray | None) -> RowStatistics | None:
    if statistics is None:
        return None
    columns = torch.as_tensor(statistics)
    return RowStatistics(columns[:, 0], columns[:, 1])


def _to_statistics(statistics: RowStatistics | None) -> FloatArray | None:
    if statistics is None:
        return None
    return _to_numpy(torch.stack([statistics.mean, statistics.deviation], dim=1))


def _to_numpy(values: Tensor) -> FloatArray:
    if not bool(values.isfinite().all()):
        raise outside_float32()
    return values.cpu().numpy()
