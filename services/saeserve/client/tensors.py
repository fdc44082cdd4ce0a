"""Between numpy and the wire: raw little-endian bytes, never repeated floats."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from saeserve.client.errors import InvalidArgumentError
from saeserve.client.features import FloatArray, IntArray, SparseFeatures
from saeserve.v1 import tensor_pb2

WireType = Literal["f32", "f16", "bf16"]

_TYPES: dict[WireType, tensor_pb2.DataType.ValueType] = {
    "f32": tensor_pb2.DATA_TYPE_F32,
    "f16": tensor_pb2.DATA_TYPE_F16,
    "bf16": tensor_pb2.DATA_TYPE_BF16,
}


_ACCEPTED = (np.dtype(np.float32), np.dtype(np.float16))


def wire_type(name: WireType) -> tensor_pb2.DataType.ValueType:
    """The API's value for "f32", "f16" or "bf16"."""
    if name not in _TYPES:
        raise InvalidArgumentError(
            f"wire type {name!r} is not known", field="dtype", remedy="use f32, f16 or bf16"
        )
    return _TYPES[name]


def to_tensor(rows: npt.NDArray[np.generic], dtype: WireType) -> tensor_pb2.Tensor:
    """A dense array as a Tensor; float64 and integers are refused, not rounded silently."""
    if rows.dtype.newbyteorder("=") not in _ACCEPTED:
        raise InvalidArgumentError(
            f"activations are {rows.dtype}",
            field="activations",
            remedy="pass float32 or float16, e.g. x.astype(np.float32)",
        )
    return tensor_pb2.Tensor(dtype=wire_type(dtype), shape=rows.shape, data=_encode(rows, dtype))


def _encode(rows: npt.NDArray[np.generic], dtype: WireType) -> bytes:
    if dtype == "f16":
        return np.ascontiguousarray(rows, "<f2").tobytes()
    f32 = np.ascontiguousarray(rows, "<f4")
    if dtype == "f32":
        return f32.tobytes()
    bits = f32.view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
    truncated = bits >> 16
    return np.where(np.isfinite(f32), rounded, truncated).astype("<u2").tobytes()


def from_tensor(tensor: tensor_pb2.Tensor) -> FloatArray:
    """A Tensor as float32."""
    data = tensor.data
    shape = tuple(tensor.shape)
    if tensor.dtype == tensor_pb2.DATA_TYPE_F16:
        return np.frombuffer(data, "<f2").astype(np.float32).reshape(shape)
    if tensor.dtype == tensor_pb2.DATA_TYPE_BF16:
        widened = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return widened.view(np.float32).reshape(shape)
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)


def from_sparse(
    sparse: tensor_pb2.SparseFeatures, model: str, queue_seconds: float, compute_seconds: float
) -> SparseFeatures:
    """CSR off the wire."""
    shape = tuple(sparse.shape)
    index_type = "<u2" if sparse.index_type == tensor_pb2.INDEX_TYPE_U16 else "<u4"
    value_type = "<f2" if sparse.values_dtype == tensor_pb2.DATA_TYPE_F16 else "<f4"
    return SparseFeatures(
        shape,
        _offsets(sparse, shape),
        np.frombuffer(sparse.indices, index_type).astype(np.int64),
        np.frombuffer(sparse.values, value_type).astype(np.float32),
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
