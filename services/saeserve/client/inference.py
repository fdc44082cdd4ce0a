"""The serving half of the SDK: encode, decode, reconstruct; large batches are split here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Generic, TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration

from saeserve.client.errors import InvalidArgumentError, translated
from saeserve.client.features import FloatArray, SparseFeatures, concatenate
from saeserve.client.reconstruction import Reconstruction, joined
from saeserve.client.tensors import (
    WireType,
    from_sparse,
    from_tensor,
    to_sparse,
    to_tensor,
    wire_type,
)
from saeserve.v1 import inference_service_pb2, inference_service_pb2_grpc

SPLIT_BYTES = 2**20
"""Requests above this are split: about 1 MiB moves fastest (DESIGN section 3, Tensors)."""
IN_FLIGHT = 4

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class _Part(Generic[_Answer]):
    """The answer to one part, and the version that gave it."""

    value: _Answer
    version: str


class Inference:
    """Calls of InferenceService."""

    def __init__(self, channel: grpc.Channel, address: str, timeout: float) -> None:
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        self._address = address
        self._timeout = timeout

    def encode(
        self,
        model: str,
        activations: npt.NDArray[np.generic],
        *,
        values: WireType = "f32",
        wire: WireType = "f32",
    ) -> SparseFeatures:
        """Sparse features of raw activations [..., d_in] (float32 or float16).

        `wire` is the type sent ("f16" and "bf16" halve the bytes), `values` the type returned.
        """
        rows = _rows(activations)

        def call(version: str, part: npt.NDArray[np.generic]) -> _Part[SparseFeatures]:
            request = inference_service_pb2.EncodeRequest(
                model=version, activations=to_tensor(part, wire), values_dtype=wire_type(values)
            )
            with translated(self._address):
                answer = self._stub.Encode(request, timeout=self._timeout)
            times = answer.execution
            features = from_sparse(
                answer.features,
                times.resolved_model,
                _seconds(times.queue_time),
                _seconds(times.compute_time),
            )
            beyond = np.array(answer.beyond_norm_bound, np.int64)
            features = dataclasses.replace(features, beyond_norm_bound=beyond)
            return _Part(features, times.resolved_model)

        return concatenate(_each_part(call, model, rows), activations.shape[:-1])

    def decode(self, model: str, features: SparseFeatures) -> FloatArray:
        """Reconstructions [..., d_out] of sparse features, in raw activation space.

        The server refuses features that another model, or another version of it, made
        (`features.model`).
        """
        request = inference_service_pb2.DecodeRequest(model=model, features=to_sparse(features))
        with translated(self._address):
            answer = self._stub.Decode(request, timeout=self._timeout)
        return from_tensor(answer.activations)

    def reconstruct(
        self, model: str, activations: npt.NDArray[np.generic], *, wire: WireType = "f32"
    ) -> Reconstruction:
        """Encode and decode in one call: [..., d_out], with `beyond_norm_bound` as in encode."""
        rows = _rows(activations)

        def call(version: str, part: npt.NDArray[np.generic]) -> _Part[Reconstruction]:
            request = inference_service_pb2.ReconstructRequest(
                model=version, activations=to_tensor(part, wire)
            )
            with translated(self._address):
                answer = self._stub.Reconstruct(request, timeout=self._timeout)
            made = Reconstruction.of(from_tensor(answer.activations), answer)
            return _Part(made, made.model)

        return joined(_each_part(call, model, rows), activations.shape[:-1])


def _rows(activations: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if activations.ndim < 1 or activations.shape[-1] == 0:
        raise InvalidArgumentError(
            f"activations have shape {activations.shape}",
            field="activations",
            remedy="pass an array of [..., d_in]",
        )
    return activations.reshape(-1, activations.shape[-1])


def _each_part(
    call: Callable[[str, npt.NDArray[np.generic]], _Part[_Answer]],
    model: str,
    rows: npt.NDArray[np.generic],
) -> list[_Answer]:
    """`call` on row-aligned parts, a few in flight at a time, answers in order.

    The first part alone resolves the reference: an alias that moves, or a version that is
    published meanwhile, would otherwise put rows of two models into one answer.
    """
    first, *rest = _parts(rows)
    answer = call(model, first)
    if not rest:
        return [answer.value]
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        others = pool.map(partial(call, answer.version), rest)
        return [answer.value, *(other.value for other in others)]


def _parts(rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    step = max(1, SPLIT_BYTES // max(1, rows.shape[1] * 4))
    edges = [*range(0, len(rows), step), len(rows)] if len(rows) else [0, 0]
    for start, stop in pairwise(edges):
        yield rows[start:stop]


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()
