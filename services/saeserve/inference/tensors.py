"""Dense tensors on the wire: {dtype, shape, little-endian bytes} to rows and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from saeserve.errors import InvalidInput
from saeserve.inference.refusals import overflow, too_large
from saeserve.inference.rows import DenseRows, FloatArray, SentArray, widened
from saeserve.v1 import tensor_pb2

F32 = tensor_pb2.DATA_TYPE_F32
F16 = tensor_pb2.DATA_TYPE_F16
BF16 = tensor_pb2.DATA_TYPE_BF16
ITEM_BYTES = {F32: 4, F16: 2, BF16: 2}
MAX_AXES = 32
# What a 64 MiB message can carry of u64 offsets; bounds what is made for rows that hold nothing.
MAX_ROWS = 2**23


def dense_rows(tensor: tensor_pb2.Tensor, field: str) -> DenseRows:
    """Read [..., d] as [rows, d], in the type in which it was sent: a view of the message's bytes.

    Raises InvalidInput for an unset type, a bad shape, a wrong number of bytes, NaN or infinity.
    """
    shape = checked_shape(tensor.shape, f"{field}.shape")
    sent = _elements(tensor.data, tensor.dtype, math.prod(shape), field).reshape(-1, shape[-1])
    if not _all_finite(sent):
        raise _not_finite(widened(sent), f"{field}.data")
    return DenseRows(sent)


def data_bytes(tensor: tensor_pb2.Tensor) -> int:
    """Bytes that a tensor of this shape and type has, without looking at its data: reading a field
    of bytes copies it."""
    return math.prod(tensor.shape[: MAX_AXES + 1]) * ITEM_BYTES.get(tensor.dtype, 4)


def dense_tensor(
    rows: DenseRows, leading: Sequence[int], dtype: tensor_pb2.DataType.ValueType, field: str
) -> tensor_pb2.Tensor:
    """Write [rows, d] as [leading..., d] in `dtype`; `field` is where the caller chose it."""
    data = packed(rows.x, dtype, field)
    return tensor_pb2.Tensor(dtype=dtype, shape=[*leading, rows.x.shape[1]], data=data)


def checked_shape(shape: Sequence[int], field: str) -> tuple[int, ...]:
    """`shape` as a tuple. Raises InvalidInput unless it is [..., d] with d >= 1."""
    axes = tuple(shape[: MAX_AXES + 1])
    if not axes or len(axes) > MAX_AXES or min(axes) < 0 or axes[-1] < 1:
        raise InvalidInput(
            f"the shape is {list(axes)}",
            code="BAD_SHAPE",
            field=field,
            remedy=f"send 1 to {MAX_AXES} axes, none negative, the last at least 1",
        )
    if math.prod(axes[:-1]) > MAX_ROWS:
        raise too_large(f"the shape {list(axes)} has more than {MAX_ROWS} rows", field)
    return axes


def checked_type(
    dtype: tensor_pb2.DataType.ValueType, field: str, *accepted: tensor_pb2.DataType.ValueType
) -> tensor_pb2.DataType.ValueType:
    """`dtype`, or F32 when it is unset. Raises InvalidInput unless it is one of `accepted`."""
    if dtype == tensor_pb2.DATA_TYPE_UNSPECIFIED:
        return F32
    if dtype not in accepted:
        raise _bad_type(dtype, "cannot be given here", field, accepted)
    return dtype


def elements(
    data: bytes, dtype: tensor_pb2.DataType.ValueType, count: int, field: str
) -> FloatArray:
    """`count` elements as float32. Raises InvalidInput for a bad type or number of bytes."""
    return widened(_elements(data, dtype, count, field))


def _elements(
    data: bytes, dtype: tensor_pb2.DataType.ValueType, count: int, field: str
) -> SentArray:
    if dtype not in ITEM_BYTES:
        raise _bad_type(dtype, "is not an element type", f"{field}.dtype", ITEM_BYTES)
    check_size(data, count, ITEM_BYTES[dtype], f"{field}.data")
    if dtype == F32:
        return np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    if dtype == F16:
        return np.frombuffer(data, "<f2").astype(np.float16, copy=False)
    return np.frombuffer(data, "<u2").astype(np.uint16, copy=False)


def _all_finite(sent: SentArray) -> bool:
    """Whether all numbers are finite, mostly in one pass that makes no array of that size."""
    if sent.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            total = sent.sum(dtype=np.float32)
        # A sum shows any NaN or infinity; it can also be too large where all numbers are finite.
        return bool(np.isfinite(total)) or bool(np.isfinite(sent).all())
    exponent = 0x7C00 if sent.dtype == np.float16 else 0x7F80
    return not bool(((sent.view(np.uint16) & exponent) == exponent).any())


def _not_finite(x: FloatArray, field: str) -> InvalidInput:
    row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(x)))
    return InvalidInput(
        f"row {row}, column {column} is {x[row, column]}",
        code="NOT_FINITE",
        field=field,
        remedy="send finite activations",
    )


def packed(x: FloatArray, dtype: tensor_pb2.DataType.ValueType, field: str) -> bytes:
    """Little-endian bytes of `x` in `dtype`.

    Raises InvalidInput where a value is too large for the type: infinity would be a wrong answer.
    """
    if dtype == F32:
        return x.astype("<f4", copy=False).tobytes()
    if dtype == F16:
        with np.errstate(over="ignore"):
            narrow = x.astype("<f2")
        _refuse_overflow(np.isinf(narrow), x, dtype, field)
        return narrow.tobytes()
    bits = x.view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even
    narrow = (rounded >> 16).astype("<u2")
    _refuse_overflow((narrow & 0x7FFF) == 0x7F80, x, dtype, field)
    return narrow.tobytes()


def check_size(data: bytes, count: int, item: int, field: str) -> None:
    """Raise InvalidInput unless `data` holds exactly `count` items of `item` bytes."""
    if len(data) != count * item:
        raise InvalidInput(
            f"{len(data)} bytes were sent where the shape needs {count * item}",
            code="BAD_SIZE",
            field=field,
            remedy="send the elements in row-major order, little-endian, without padding",
        )


def _refuse_overflow(
    infinite: npt.NDArray[np.bool_],
    x: FloatArray,
    dtype: tensor_pb2.DataType.ValueType,
    field: str,
) -> None:
    if infinite.any():
        value = x.reshape(-1)[int(np.flatnonzero(infinite)[0])]
        what = f"the result holds {value:g}, too large for {_name(dtype)}"
        raise overflow(what, field, "ask for F32")


def _bad_type(
    dtype: tensor_pb2.DataType.ValueType,
    why: str,
    field: str,
    accepted: Iterable[tensor_pb2.DataType.ValueType],
) -> InvalidInput:
    return InvalidInput(
        f"the type {_name(dtype)} {why}",
        code="BAD_TYPE",
        field=field,
        remedy=f"choose one of {', '.join(map(_name, accepted))}",
    )


def _name(dtype: tensor_pb2.DataType.ValueType) -> str:
    # An open enum: callers may send numbers that have no name.
    known = tensor_pb2.DataType.values()
    name = tensor_pb2.DataType.Name(dtype) if dtype in known else str(dtype)
    return name.removeprefix("DATA_TYPE_")
