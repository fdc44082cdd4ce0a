"""Sparse features on the wire: CSR in bytes, checked to the last entry."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saeserve.errors import InvalidInput
from saeserve.inference.rows import (
    NARROW_LATENTS,
    FeatureRows,
    FloatArray,
    IndexArray,
    OffsetArray,
    index_type,
)
from saeserve.inference.tensors import check_size, checked_shape, elements, packed
from saeserve.v1 import tensor_pb2

U16 = tensor_pb2.INDEX_TYPE_U16
U32 = tensor_pb2.INDEX_TYPE_U32
MAX_LATENTS = 2**32


def feature_rows(message: tensor_pb2.SparseFeatures, field: str) -> FeatureRows:
    """Read CSR features. Raises InvalidInput, naming field and row, for anything but exact CSR."""
    shape = checked_shape(message.shape, f"{field}.shape")
    rows, d_sae = math.prod(shape[:-1]), shape[-1]
    if d_sae > MAX_LATENTS:
        raise _wrong(f"{d_sae} latents do not fit u32 indices", f"{field}.shape")
    offsets = _read_offsets(message, rows, field)
    stored = int(offsets[-1])
    indices = _read_indices(message, stored, field)
    values = elements(message.values, message.values_dtype, stored, f"{field}.values")
    _check_entries(FeatureRows(offsets, indices, values, d_sae), field)
    narrow = indices.astype(index_type(d_sae), copy=False)
    return FeatureRows(offsets, narrow, values, d_sae, _read_statistics(message, rows, field))


def sparse_features(
    features: FeatureRows,
    leading: Sequence[int],
    values_dtype: tensor_pb2.DataType.ValueType,
    model: str = "",
) -> tensor_pb2.SparseFeatures:
    """Write features over [leading..., d_sae], made by the version `model`; offsets are left out
    when every row has k > 0."""
    k = _common_count(features.offsets)
    narrow = features.d_sae <= NARROW_LATENTS
    return tensor_pb2.SparseFeatures(
        shape=[*leading, features.d_sae],
        offsets=b"" if k else features.offsets.astype("<u8").tobytes(),
        fixed_k=k,
        indices=features.indices.astype("<u2" if narrow else "<u4", copy=False).tobytes(),
        index_type=U16 if narrow else U32,
        values=packed(features.values, values_dtype, "values_dtype"),
        values_dtype=values_dtype,
        row_means=_column(features.statistics, 0),
        row_deviations=_column(features.statistics, 1),
        model=model,
    )


def _column(statistics: FloatArray | None, index: int) -> bytes:
    return b"" if statistics is None else statistics[:, index].astype("<f4").tobytes()


def _read_statistics(
    message: tensor_pb2.SparseFeatures, rows: int, field: str
) -> FloatArray | None:
    if not message.row_means and not message.row_deviations:
        return None
    columns = [
        elements(message.row_means, tensor_pb2.DATA_TYPE_F32, rows, f"{field}.row_means"),
        elements(message.row_deviations, tensor_pb2.DATA_TYPE_F32, rows, f"{field}.row_deviations"),
    ]
    statistics = np.stack(columns, axis=1)
    infinite = ~np.isfinite(statistics).all(axis=1)
    if infinite.any():
        row = int(np.flatnonzero(infinite)[0])
        raise _wrong("or row_deviations hold NaN or Inf", f"{field}.row_means", row=row)
    return statistics


def _common_count(offsets: OffsetArray) -> int:
    counts = np.diff(offsets)
    return int(counts[0]) if len(counts) and (counts == counts[0]).all() else 0


def _read_offsets(message: tensor_pb2.SparseFeatures, rows: int, field: str) -> OffsetArray:
    data = message.offsets
    if not data and (rows or message.fixed_k):
        return _fixed_offsets(message.fixed_k, rows, field)
    if message.fixed_k:
        raise _wrong("is set together with offsets", f"{field}.fixed_k", "leave one of them out")
    if not data:
        return np.zeros(1, np.int64)
    check_size(data, rows + 1, 8, f"{field}.offsets")
    return _checked_offsets(np.frombuffer(data, "<u8"), len(message.indices), f"{field}.offsets")


def _fixed_offsets(k: int, rows: int, field: str) -> OffsetArray:
    # Bounds the product before anything of that size is made.
    if not 0 <= k < MAX_LATENTS:
        raise _wrong(f"is {k}", f"{field}.fixed_k")
    return np.arange(rows + 1, dtype=np.int64) * k


def _checked_offsets(offsets: npt.NDArray[np.uint64], index_bytes: int, field: str) -> OffsetArray:
    falls = offsets[1:] < offsets[:-1]
    if falls.any():
        raise _wrong("fall", field, row=int(np.flatnonzero(falls)[0]))
    # Every entry has an index, so this bounds what the last offset can rightly be.
    if offsets[0] != 0 or int(offsets[-1]) > index_bytes:
        raise _wrong(f"run from {offsets[0]} to {offsets[-1]}", field)
    return offsets.astype(np.int64)


def _read_indices(message: tensor_pb2.SparseFeatures, stored: int, field: str) -> IndexArray:
    data, kind = message.indices, message.index_type
    if kind not in (U16, U32):
        raise _wrong("must be U16 or U32", f"{field}.index_type")
    check_size(data, stored, 2 if kind == U16 else 4, f"{field}.indices")
    if kind == U16:
        return np.frombuffer(data, "<u2").astype(np.uint16, copy=False)
    return np.frombuffer(data, "<u4").astype(np.uint32, copy=False)


def _check_entries(features: FeatureRows, field: str) -> None:
    outside = features.indices >= features.d_sae
    if outside.any():
        place = int(np.flatnonzero(outside)[0])
        text = f"hold {features.indices[place]}, which is not below {features.d_sae}"
        raise _wrong(text, f"{field}.indices", row=_row(features, place))
    stalls = features.indices[1:] <= features.indices[:-1]
    # The first entry of a row need not exceed the last of the row before.
    firsts = features.offsets[1:-1]
    stalls[firsts[(firsts > 0) & (firsts < len(features.indices))] - 1] = False
    if stalls.any():
        place = int(np.flatnonzero(stalls)[0])
        raise _wrong("do not ascend", f"{field}.indices", row=_row(features, place))
    infinite = ~np.isfinite(features.values)
    if infinite.any():
        place = int(np.flatnonzero(infinite)[0])
        text = f"hold {features.values[place]}"
        raise _wrong(text, f"{field}.values", row=_row(features, place))


def _row(features: FeatureRows, entry: int) -> int:
    return int(np.searchsorted(features.offsets, entry, side="right")) - 1


def _wrong(text: str, field: str, remedy: str = "", row: int | None = None) -> InvalidInput:
    where = f"row {row}: " if row is not None else ""
    name = field.rsplit(".", 1)[-1]
    return InvalidInput(
        f"{where}{name} {text}",
        code="BAD_FEATURES",
        field=field,
        remedy=remedy or "send CSR as SparseFeatures describes it, e.g. an answer of Encode",
    )
