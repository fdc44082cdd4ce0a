"""What the SDK puts on the wire and reads off it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saeserve.client.arrays import ArrayInput, rows_of
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.features import SparseFeatures, concatenate
from saeserve.client.tensors import WireType, from_sparse, from_tensor, to_sparse, to_tensor
from saeserve.v1 import tensor_pb2

finite = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


def sent(rows: ArrayInput, wire: WireType | None = None) -> tensor_pb2.Tensor:
    return to_tensor(rows_of(rows).flat(), wire)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=finite))
def test_f32_round_trip_is_exact(rows: np.ndarray) -> None:
    assert np.array_equal(from_tensor(sent(rows)), rows)


@given(hnp.arrays(np.float32, (3, 4), elements=finite))
def test_bf16_rounds_as_torch_does(rows: np.ndarray) -> None:
    wanted = torch.as_tensor(rows.copy()).bfloat16()
    assert np.array_equal(from_tensor(sent(rows, "bf16")), wanted.float().numpy())
    # Bits that are bfloat16 already travel as they are.
    assert sent(wanted) == sent(rows, "bf16")


@pytest.mark.parametrize("wire", ["f32", "f16", "bf16"])
def test_nan_and_infinity_are_kept_for_the_server_to_refuse(wire: WireType) -> None:
    rows = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    back = from_tensor(sent(rows, wire))
    assert np.array_equal(back, rows, equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "wire"),
    [
        (torch.float16, tensor_pb2.DATA_TYPE_F16),
        (torch.bfloat16, tensor_pb2.DATA_TYPE_BF16),
        (torch.float32, tensor_pb2.DATA_TYPE_F32),
        (torch.float64, tensor_pb2.DATA_TYPE_F32),
    ],
)
def test_the_narrowest_exact_type_travels(dtype: torch.dtype, wire: int) -> None:
    x = torch.arange(12).reshape(3, 4).to(dtype)
    assert sent(x).dtype == wire
    assert np.array_equal(from_tensor(sent(x)), x.float().numpy())


@pytest.mark.parametrize(
    ("rows", "wire", "text"),
    [
        (np.full((2, 2), 5e5, np.float32), "f16", "float16 is too narrow"),
        (torch.full((2, 2), 5e5, dtype=torch.bfloat16), "f16", "float16 is too narrow"),
        (np.full((2, 2), 3.4e38, np.float32), "bf16", "bfloat16 is too narrow"),
        (np.full((2, 2), 1e39), None, "too large for float32"),
        (np.full((2, 2), -1e39), "bf16", "too large for float32"),
        (np.full((2, 2), 1e39), "f16", "too large for float32"),
    ],
)
def test_overflow_names_the_place_and_the_type(
    rows: Any,  # noqa: ANN401 - arrays and tensors
    wire: WireType | None,
    text: str,
) -> None:
    rows[0, :] = 0
    rows[1, 0] = 0
    with pytest.raises(InvalidArgumentError, match=text) as caught:
        sent(rows, wire)
    assert caught.value.message.startswith("row 1, column 1 is ")
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "OVERFLOW")


def test_an_unknown_wire_type_is_refused() -> None:
    wrong: Any = "f8"
    with pytest.raises(InvalidArgumentError, match="f32, f16 or bf16"):
        sent([[1.0]], wrong)


def _features(d_sae: int) -> SparseFeatures:
    return SparseFeatures(
        (3, d_sae),
        np.array([0, 2, 2, 3]),
        np.array([1, 5, 0]),
        np.array([0.5, 1.5, 2.5], np.float32),
    )


@pytest.mark.parametrize("d_sae", [8, 70_000])
def test_csr_round_trip(d_sae: int) -> None:
    sent = _features(d_sae)
    back = from_sparse(to_sparse(sent), "m", 0.0, 0.0)
    assert np.array_equal(back.offsets, sent.offsets)
    assert np.array_equal(back.indices, sent.indices)
    assert np.array_equal(back.values, sent.values)
    assert back.shape == sent.shape


def test_concatenate_keeps_rows_in_order() -> None:
    both = concatenate([_features(8), _features(8)], (2, 3))
    assert both.shape == (2, 3, 8)
    assert np.array_equal(both.to_dense()[0], both.to_dense()[1])
    assert both.row(3)[0].tolist() == [1, 5]
    assert both.to_scipy().shape == (6, 8)
    assert both.l0 == 1.0


def test_parts_of_features_are_their_rows() -> None:
    whole = concatenate([_features(8), _features(8)], (6,))
    for start in range(7):
        for stop in range(start, 7):
            part = whole.part(start, stop)
            assert np.array_equal(part.to_dense(), whole.to_dense()[start:stop])
    assert np.array_equal(
        concatenate([whole.part(0, 2), whole.part(2, 6)], (6,)).to_dense(), whole.to_dense()
    )
