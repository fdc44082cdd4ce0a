"""Between numpy and the wire: raw little-endian bytes, never repeated floats."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration

from saeserve.client.arrays import Rows
from saeserve.client.features import FloatArray, IntArray, SparseFeatures
from saeserve.client.refusals import bad_type
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import tensor_pb2

WireType = Literal["f32", "f16", "bf16"]

_TYPES: dict[WireType, tensor_pb2.DataType.ValueType] = {
    "f32": tensor_pb2.DATA_TYPE_F32,
    "f16": tensor_pb2.DATA_TYPE_F16,
    "bf16": tensor_pb2.DATA_TYPE_BF16,
}


def wire_type(name: WireType) -> tensor_pb2.DataType.ValueType:
    """The API's value for "f32", "f16" or "bf16"."""
    if name not in _TYPES:
        raise bad_type(
            f"wire type {name!r} is not known", field="dtype", remedy="use f32, f16 or bf16"
        )
    return _TYPES[name]


_NATURAL: dict[str, WireType] = {"float16": "f16", "bfloat16": "bf16"}


def to_tensor(rows: Rows, wire: WireType | None) -> tensor_pb2.Tensor:
    """Rows [rows, d] as a Tensor; without `wire`, in the narrowest type that holds them exactly.

    Raises InvalidArgumentError where a value is too large for the type.
    """
    chosen = wire or _NATURAL.get(rows.dtype, "f32")
    return tensor_pb2.Tensor(dtype=wire_type(chosen), shape=rows.shape, data=_encode(rows, chosen))


def _encode(rows: Rows, wire: WireType) -> bytes:
    if rows.dtype == {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}[wire]:
        return rows.data.astype(rows.data.dtype.newbyteorder("<"), copy=False).tobytes()
    f32 = rows.float32()
    if wire == "f32":
        return f32.astype("<f4", copy=False).tobytes()
    narrow = _narrow(f32, wire)
    infinite = (narrow.view(np.uint16) & _EXPONENT[wire]) == _EXPONENT[wire]
    rows.refuse_overflow(
        infinite,
        f"{_NAMES[wire]}, whose largest value is {_LARGEST[wire]:g}",
        f"{_NAMES[wire]} is too narrow for these activations: send them with wire='f32'",
    )
    return narrow.tobytes()


_NAMES = {"f16": "float16", "bf16": "bfloat16"}
_LARGEST = {"f16": 65504.0, "bf16": 3.3895e38}
_EXPONENT = {"f16": 0x7C00, "bf16": 0x7F80}
"""Bits that are all set in infinity and NaN alone."""


def _narrow(f32: FloatArray, wire: WireType) -> npt.NDArray[np.generic]:
    """float32 rounded to nearest, ties to even; overflow becomes infinity."""
    if wire == "f16":
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(f32, "<f2")
    bits = np.ascontiguousarray(f32, "<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isfinite(f32), rounded, bits >> 16).astype("<u2")


def from_tensor(tensor: tensor_pb2.Tensor) -> FloatArray:
    """A Tensor as float32."""
    return _elements(tensor.data, tensor.dtype).reshape(tuple(tensor.shape))


def _elements(data: bytes, dtype: tensor_pb2.DataType.ValueType) -> FloatArray:
    if dtype == tensor_pb2.DATA_TYPE_F16:
        return np.frombuffer(data, "<f2").astype(np.float32)
    if dtype == tensor_pb2.DATA_TYPE_BF16:
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f4").astype(np.float32)


def from_sparse(
    sparse: tensor_pb2.SparseFeatures, model: str, queue_seconds: float, compute_seconds: float
) -> SparseFeatures:
    """CSR off the wire."""
    shape = tuple(sparse.shape)
    index_type = "<u2" if sparse.index_type == tensor_pb2.INDEX_TYPE_U16 else "<u4"
    return SparseFeatures(
        shape,
        _offsets(sparse, shape),
        np.frombuffer(sparse.indices, index_type).astype(np.int64),
        _elements(sparse.values, sparse.values_dtype),
        model,
        queue_seconds,
        compute_seconds,
        _statistics(sparse),
    )


def _statistics(sparse: tensor_pb2.SparseFeatures) -> FloatArray | None:
    if not sparse.row_means:
        return None
    columns = [np.frombuffer(data, "<f4") for data in (sparse.row_means, sparse.row_deviations)]
    return np.stack(columns, axis=1).astype(np.float32)


def _offsets(sparse: tensor_pb2.SparseFeatures, shape: tuple[int, ...]) -> IntArray:
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    data = sparse.offsets
    if data:
        return np.frombuffer(data, "<u8").astype(np.int64)
    return np.arange(rows + 1, dtype=np.int64) * sparse.fixed_k


def to_sparse(features: SparseFeatures) -> tensor_pb2.SparseFeatures:
    """CSR onto the wire, in the narrowest index type that holds d_sae."""
    narrow = features.d_sae <= 2**16
    means, deviations = _columns(features.statistics)
    return tensor_pb2.SparseFeatures(
        shape=features.shape,
        offsets=features.offsets.astype("<u8").tobytes(),
        indices=features.indices.astype("<u2" if narrow else "<u4").tobytes(),
        index_type=tensor_pb2.INDEX_TYPE_U16 if narrow else tensor_pb2.INDEX_TYPE_U32,
        values=features.values.astype("<f4").tobytes(),
        values_dtype=tensor_pb2.DATA_TYPE_F32,
        row_means=means,
        row_deviations=deviations,
        model=features.model,
    )


def _columns(statistics: FloatArray | None) -> tuple[bytes, bytes]:
    if statistics is None:
        return b"", b""
    return statistics[:, 0].astype("<f4").tobytes(), statistics[:, 1].astype("<f4").tobytes()


def encoded(answer: pb.EncodeResponse) -> SparseFeatures:
    """The features of an answer of Encode, and how it came about."""
    times = answer.execution
    features = from_sparse(
        answer.features,
        times.resolved_model,
        _seconds(times.queue_time),
        _seconds(times.compute_time),
    )
    beyond = np.array(answer.beyond_norm_bound, np.int64)
    return dataclasses.replace(features, beyond_norm_bound=beyond)


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()
