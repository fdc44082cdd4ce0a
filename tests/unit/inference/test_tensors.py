"""Dense tensors off and onto the wire."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saeserve.errors import InvalidInput
from saeserve.inference.rows import DenseRows, FloatArray
from saeserve.inference.tensors import (
    BF16,
    F16,
    F32,
    checked_type,
    data_bytes,
    dense_rows,
    dense_tensor,
)
from saeserve.v1 import tensor_pb2

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def message(x: FloatArray, dtype: tensor_pb2.DataType.ValueType, data: bytes) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=dtype, shape=x.shape, data=data)


def refused(tensor: tensor_pb2.Tensor) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        dense_rows(tensor, "activations")
    assert caught.value.remedy
    return caught.value


@given(hnp.arrays(np.float32, SHAPES, elements=FINITE))
def test_float32_round_trips_with_its_leading_axes(x: FloatArray) -> None:
    rows = dense_rows(message(x, F32, x.tobytes()), "activations")
    back = dense_tensor(rows, x.shape[:-1], F32, "output_dtype")
    assert tuple(back.shape) == x.shape
    assert back.data == x.tobytes()


@given(hnp.arrays(np.float16, SHAPES, elements=st.floats(width=16, allow_infinity=False)))
def test_float16_is_widened_exactly(x: FloatArray) -> None:
    if np.isnan(x).any():
        x = np.zeros_like(x)
    rows = dense_rows(message(x, F16, x.tobytes()), "activations")
    np.testing.assert_array_equal(rows.x, x.astype(np.float32).reshape(-1, x.shape[-1]))
    assert dense_tensor(rows, x.shape[:-1], F16, "output_dtype").data == x.tobytes()


@given(hnp.arrays(np.uint16, SHAPES))
def test_bfloat16_is_the_upper_half_of_a_float32(bits: np.ndarray) -> None:
    bits = np.where((bits & 0x7F80) == 0x7F80, 0, bits).astype("<u2")
    tensor = tensor_pb2.Tensor(dtype=BF16, shape=bits.shape, data=bits.tobytes())
    rows = dense_rows(tensor, "activations")
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(rows.x, expected.reshape(-1, bits.shape[-1]))
    assert dense_tensor(rows, bits.shape[:-1], BF16, "output_dtype").data == bits.tobytes()


def test_bfloat16_rounds_to_nearest_ties_to_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF], np.uint32)
    rows = DenseRows(bits.view(np.float32).reshape(1, 4))
    packed = np.frombuffer(dense_tensor(rows, (1,), BF16, "output_dtype").data, "<u2")
    assert packed.tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80]


@pytest.mark.parametrize(("dtype", "value"), [(F16, 70000.0), (BF16, 3.4e38), (BF16, -3.4e38)])
def test_a_value_too_large_for_the_answers_type_is_refused(
    dtype: tensor_pb2.DataType.ValueType, value: float
) -> None:
    rows = DenseRows(np.array([[1.0, value]], np.float32))
    with pytest.raises(InvalidInput, match="too large for") as caught:
        dense_tensor(rows, (1,), dtype, "output_dtype")
    assert (caught.value.field, caught.value.remedy) == ("output_dtype", "ask for F32")


def test_one_row_without_leading_axes() -> None:
    rows = dense_rows(tensor_pb2.Tensor(dtype=F32, shape=[2], data=bytes(8)), "activations")
    assert rows.x.shape == (1, 2)
    assert list(dense_tensor(rows, (), F32, "output_dtype").shape) == [2]


def test_no_rows_are_fine() -> None:
    rows = dense_rows(tensor_pb2.Tensor(dtype=F32, shape=[3, 0, 4]), "activations")
    assert rows.x.shape == (0, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [F32, F16, BF16])
def test_a_value_that_is_not_finite_is_named_by_row_and_column(
    bad: float, dtype: tensor_pb2.DataType.ValueType
) -> None:
    x = np.zeros((2, 2, 3), np.float32)
    x[1, 0, 1] = bad
    data = {
        F32: x.tobytes(),
        F16: x.astype(np.float16).tobytes(),
        BF16: (x.view(np.uint32) >> 16).astype("<u2").tobytes(),
    }[dtype]
    error = refused(message(x, dtype, data))
    assert error.message.startswith("row 2, column 1 is ")
    assert (error.field, error.code) == ("activations.data", "NOT_FINITE")


@pytest.mark.parametrize("dtype", [F32, F16, BF16])
def test_rows_stay_in_the_type_in_which_they_were_sent(
    dtype: tensor_pb2.DataType.ValueType,
) -> None:
    bits = np.array([[0x3C00, 0x7BFF], [0x8001, 0x0001]], "<u2")
    data = bits.astype("<f4").tobytes() if dtype == F32 else bits.tobytes()
    tensor = tensor_pb2.Tensor(dtype=dtype, shape=bits.shape, data=data)
    rows = dense_rows(tensor, "activations")
    assert rows.sent.tobytes() == data
    assert not rows.sent.flags.owndata
    assert data_bytes(tensor) == rows.nbytes == len(data)


def test_finite_numbers_whose_sum_is_not_finite_are_accepted() -> None:
    x = np.full((4, 3), 3e38, np.float32)
    np.testing.assert_array_equal(dense_rows(message(x, F32, x.tobytes()), "a").x, x)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ([], "BAD_SHAPE"),
        ([2, 0], "BAD_SHAPE"),
        ([-1, 4], "BAD_SHAPE"),
        ([1] * 33, "BAD_SHAPE"),
        ([2**40, 2**40, 1], "TOO_LARGE"),
    ],
)
def test_bad_shapes(shape: list[int], reason: str) -> None:
    error = refused(tensor_pb2.Tensor(dtype=F32, shape=shape))
    assert (error.field, error.code) == ("activations.shape", reason)


@pytest.mark.parametrize(("dtype", "size"), [(F32, 24), (F16, 12), (BF16, 12)])
@pytest.mark.parametrize("off", [-1, 1, 2])
def test_the_number_of_bytes_must_be_exact(
    dtype: tensor_pb2.DataType.ValueType, size: int, off: int
) -> None:
    error = refused(tensor_pb2.Tensor(dtype=dtype, shape=[2, 3], data=bytes(size + off)))
    assert error.message == f"{size + off} bytes were sent where the shape needs {size}"


def test_an_unset_or_unknown_type_is_refused() -> None:
    error = refused(tensor_pb2.Tensor(shape=[1, 1], data=bytes(4)))
    assert error.message == "the type UNSPECIFIED is not an element type"
    unknown = tensor_pb2.Tensor.FromString(b"\x08\x63")
    unknown.shape.extend([1, 1])
    assert "99" in refused(unknown).message


def test_the_answers_type_is_checked_and_f32_by_default() -> None:
    assert checked_type(tensor_pb2.DATA_TYPE_UNSPECIFIED, "values_dtype", F32, F16) == F32
    assert checked_type(F16, "values_dtype", F32, F16) == F16
    with pytest.raises(InvalidInput, match="BF16 cannot be given here") as caught:
        checked_type(BF16, "values_dtype", F32, F16)
    assert caught.value.remedy == "choose one of F32, F16"
