"""Sparse features off and onto the wire."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.errors import InvalidInput
from saeserve.inference.features import U16, U32, feature_rows, sparse_features
from saeserve.inference.rows import FeatureRows, index_type, join_features
from saeserve.inference.tensors import F16, F32
from saeserve.v1 import tensor_pb2

Message = tensor_pb2.SparseFeatures


def csr(rows: list[list[int]], d_sae: int) -> FeatureRows:
    counts = [0, *(len(row) for row in rows)]
    flat = [index for row in rows for index in row]
    values = (np.arange(1, len(flat) + 1) / 8).astype(np.float32)
    return FeatureRows(
        np.cumsum(counts, dtype=np.int64), np.array(flat, index_type(d_sae)), values, d_sae
    )


@st.composite
def batches(draw: st.DrawFn) -> FeatureRows:
    d_sae = draw(st.sampled_from([1, 7, 2**16, 2**16 + 1, 2**20]))
    row = st.sets(st.integers(0, d_sae - 1), max_size=min(d_sae, 6)).map(sorted)
    return csr(draw(st.lists(row, max_size=8)), d_sae)


def same(a: FeatureRows, b: FeatureRows) -> bool:
    return a.d_sae == b.d_sae and all(
        np.array_equal(left, right) and left.dtype == right.dtype
        for left, right in (
            (a.offsets, b.offsets),
            (a.indices, b.indices),
            (a.values, b.values),
        )
    )


@given(batches(), st.sampled_from([F32, F16]))
def test_round_trip(features: FeatureRows, dtype: tensor_pb2.DataType.ValueType) -> None:
    message = sparse_features(features, (features.rows,), dtype)
    assert same(feature_rows(Message.FromString(message.SerializeToString()), "f"), features)
    narrow = features.d_sae <= 2**16
    assert message.index_type == (U16 if narrow else U32)
    assert len(message.indices) == len(features.indices) * (2 if narrow else 4)


@given(batches(), st.data())
def test_parts_joined_are_the_whole(features: FeatureRows, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, features.rows), max_size=3)))
    edges = [0, *cuts, features.rows]
    parts = [features.part(a, b) for a, b in pairwise(edges)]
    assert same(join_features(parts), features)


def test_offsets_are_left_out_exactly_when_every_row_has_k() -> None:
    fixed = sparse_features(csr([[0, 3], [1, 2]], 4), (2, 1), F32)
    assert (fixed.offsets, fixed.fixed_k, list(fixed.shape)) == (b"", 2, [2, 1, 4])
    ragged = sparse_features(csr([[0, 3], [1]], 4), (2,), F32)
    assert (len(ragged.offsets), ragged.fixed_k) == (24, 0)
    empty = sparse_features(csr([[], []], 4), (2,), F32)
    assert (len(empty.offsets), empty.fixed_k) == (24, 0)
    none = sparse_features(csr([], 4), (0,), F32)
    assert (len(none.offsets), none.fixed_k) == (8, 0)


def test_values_too_large_for_f16_are_refused() -> None:
    features = FeatureRows(
        np.array([0, 1]), np.array([0], np.uint16), np.array([1e6], np.float32), 4
    )
    with pytest.raises(InvalidInput, match="1e\\+06, too large for F16") as caught:
        sparse_features(features, (1,), F16)
    assert caught.value.field == "values_dtype"


def message() -> Message:
    """Two rows of [0, 2] and [1] over five latents."""
    return Message(
        shape=[2, 5],
        offsets=np.array([0, 2, 3], "<u8").tobytes(),
        indices=np.array([0, 2, 1], "<u2").tobytes(),
        index_type=U16,
        values=np.array([1, 2, 3], "<f4").tobytes(),
        values_dtype=F32,
    )


def offsets(*values: int) -> Callable[[Message], None]:
    def spoil(features: Message) -> None:
        features.offsets = np.array(values, "<u8").tobytes()

    return spoil


def indices(*values: int) -> Callable[[Message], None]:
    def spoil(features: Message) -> None:
        features.indices = np.array(values, "<u2").tobytes()

    return spoil


def wide_indices(features: Message) -> None:
    features.index_type = U32
    features.indices = np.array([0, 2**31, 1], "<u4").tobytes()


def values(*given_values: float) -> Callable[[Message], None]:
    def spoil(features: Message) -> None:
        features.values = np.array(given_values, "<f4").tobytes()

    return spoil


def fixed(k: int, keep_offsets: bool = False) -> Callable[[Message], None]:
    def spoil(features: Message) -> None:
        features.fixed_k = k
        if not keep_offsets:
            features.offsets = b""

    return spoil


def shape(*axes: int) -> Callable[[Message], None]:
    def spoil(features: Message) -> None:
        features.shape[:] = axes

    return spoil


def index_kind(kind: tensor_pb2.IndexType.ValueType) -> Callable[[Message], None]:
    def spoil(features: Message) -> None:
        features.index_type = kind

    return spoil


def value_kind(kind: tensor_pb2.DataType.ValueType) -> Callable[[Message], None]:
    def spoil(features: Message) -> None:
        features.values_dtype = kind

    return spoil


@pytest.mark.parametrize(
    ("spoil", "field", "text"),
    [
        (offsets(0, 2), "offsets", "16 bytes were sent where the shape needs 24"),
        (offsets(0, 3, 2), "offsets", "row 1: offsets fall"),
        (offsets(1, 2, 3), "offsets", "run from 1 to 3"),
        (offsets(0, 2, 4), "indices", "6 bytes were sent where the shape needs 8"),
        (offsets(0, 2, 2**63), "offsets", "run from 0 to 9223372036854775808"),
        (indices(0, 5, 1), "indices", "row 0: indices hold 5, which is not below 5"),
        (wide_indices, "indices", "row 0: indices hold 2147483648"),
        (indices(2, 0, 1), "indices", "row 0: indices do not ascend"),
        (indices(2, 2, 1), "indices", "row 0: indices do not ascend"),
        (indices(0, 2), "indices", "4 bytes were sent where the shape needs 6"),
        (values(1, 2), "values.data", "8 bytes were sent where the shape needs 12"),
        (values(1, 2, np.nan), "values", "row 1: values hold nan"),
        (values(1, np.inf, 3), "values", "row 0: values hold inf"),
        (fixed(2), "indices", "6 bytes were sent where the shape needs 8"),
        (fixed(-1), "fixed_k", "fixed_k is -1"),
        (fixed(2**62), "fixed_k", "fixed_k is"),
        (fixed(1, keep_offsets=True), "fixed_k", "is set together with offsets"),
        (shape(), "shape", "the shape is []"),
        (shape(2, 2**33), "shape", "do not fit u32"),
        (shape(2**50, 5), "shape", "more than 8388608 rows"),
        (index_kind(tensor_pb2.INDEX_TYPE_UNSPECIFIED), "index_type", "must be U16 or U32"),
        (value_kind(tensor_pb2.DATA_TYPE_UNSPECIFIED), "values.dtype", "not an element type"),
    ],
)
def test_anything_but_exact_csr_is_refused(
    spoil: Callable[[Message], None], field: str, text: str
) -> None:
    features = message()
    spoil(features)
    with pytest.raises(InvalidInput) as caught:
        feature_rows(features, "features")
    assert text in caught.value.message
    assert caught.value.field == f"features.{field}"
    assert caught.value.remedy


def test_the_unspoilt_message_is_read() -> None:
    features = feature_rows(message(), "features")
    assert (features.rows, features.d_sae, features.indices.tolist()) == (2, 5, [0, 2, 1])


def test_rows_may_be_empty_at_both_ends() -> None:
    features = message()
    features.shape[:] = [5, 5]
    features.offsets = np.array([0, 0, 2, 3, 3, 3], "<u8").tobytes()
    assert np.diff(feature_rows(features, "features").offsets).tolist() == [0, 2, 1, 0, 0]


def test_all_u16_indices_lie_below_65536_latents() -> None:
    features = message()
    features.shape[:] = [2, 2**16]
    features.indices = np.array([0, 2**16 - 1, 1], "<u2").tobytes()
    assert feature_rows(features, "features").indices.tolist() == [0, 2**16 - 1, 1]


def test_no_rows_without_offsets() -> None:
    features = Message(shape=[0, 5], index_type=U16, values_dtype=F32)
    assert feature_rows(features, "features").rows == 0
