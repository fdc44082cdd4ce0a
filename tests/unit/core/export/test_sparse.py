"""CSR rows against the dense matrices that they stand for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from saeserve.core.errors import DataError, DataMismatchError
from saeserve.core.ops import sparse
from saeserve.core.ops.sparse import SparseRows

D_SAE = 6


def _dense(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(-1, D_SAE)


dense_rows = st.lists(
    st.lists(st.sampled_from([0, 0, 0, -1, 2]), min_size=D_SAE, max_size=D_SAE), max_size=5
).map(_dense)


@given(dense_rows)
def test_dense_rows_survive_the_round_trip(f_BF: Tensor) -> None:
    features = sparse.from_dense(f_BF)
    sparse.check(features)
    assert features.rows == f_BF.shape[0]
    assert torch.equal(sparse.to_dense(features), f_BF)


@given(dense_rows)
def test_decode_is_the_matrix_product(f_BF: Tensor) -> None:
    W_dec_FO = torch.arange(D_SAE * 3, dtype=torch.float32).view(D_SAE, 3)
    assert torch.equal(sparse.decode(sparse.from_dense(f_BF), W_dec_FO), f_BF @ W_dec_FO)


@given(st.lists(dense_rows, min_size=1, max_size=4))
def test_split_undoes_concat(parts: list[Tensor]) -> None:
    joined = sparse.concat([sparse.from_dense(part) for part in parts])
    assert torch.equal(sparse.to_dense(joined), torch.cat(parts))
    again = sparse.split(joined, [part.shape[0] for part in parts])
    for part, expected in zip(again, parts, strict=True):
        sparse.check(part)
        assert torch.equal(sparse.to_dense(part), expected)


@pytest.mark.parametrize("stored", [1, 40])
def test_few_and_many_entries_decode_alike(stored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "BLOCK_BYTES", 3 * 4 * 64)
    draws = torch.Generator().manual_seed(stored)
    f_BF = torch.zeros(7, 64)
    f_BF[:, :stored] = torch.rand(7, stored, generator=draws) + 0.5
    W_dec_FO = torch.randn(64, 5, generator=draws)
    torch.testing.assert_close(
        sparse.decode(sparse.from_dense(f_BF), W_dec_FO), f_BF @ W_dec_FO, rtol=1e-5, atol=1e-5
    )


def test_rows_of_other_widths_are_not_joined() -> None:
    parts = [sparse.from_dense(torch.ones(1, width)) for width in (2, 3)]
    with pytest.raises(DataMismatchError, match=r"widths \[2, 3\]"):
        sparse.concat(parts)


@pytest.mark.parametrize("sizes", [[1], [1, 2], [3, -1]])
def test_sizes_that_do_not_add_up_are_refused(sizes: list[int]) -> None:
    with pytest.raises(DataMismatchError, match="do not split 2 rows"):
        sparse.split(sparse.from_dense(torch.ones(2, 3)), sizes)


def _rows(offsets: list[int], indices: list[int], values: list[float]) -> SparseRows:
    return SparseRows(
        torch.tensor(offsets),
        torch.tensor(indices, dtype=torch.int64),
        torch.tensor(values, dtype=torch.float32),
        d_sae=4,
    )


@pytest.mark.parametrize(
    ("features", "complaint"),
    [
        (_rows([0, 1, 2], [0], [1.0]), "offsets must begin at 0 and end at the 1"),
        (_rows([1, 1], [0], [1.0]), "offsets must begin at 0"),
        (_rows([0, 1], [0], [1.0, 2.0]), "1 indices but 2 values"),
        (_rows([0, 2, 1, 2], [0, 1], [1.0, 1.0]), "row 1: offsets fall"),
        (_rows([0, 1, 2], [0, 4], [1.0, 1.0]), r"row 1: an index is not in 0 \.\. 3"),
        (_rows([0, 0, 1], [-1], [1.0]), "row 1: an index is not"),
        (_rows([0, 1, 3], [3, 2, 2], [1.0, 1.0, 1.0]), "row 1: indices do not ascend"),
        (_rows([0, 1], [0], [float("nan")]), "row 0: a value is NaN or infinite"),
    ],
)
def test_malformed_features_are_named(features: SparseRows, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        sparse.check(features)


def test_indices_may_fall_from_one_row_to_the_next() -> None:
    sparse.check(_rows([0, 1, 1, 2], [3, 0], [1.0, 1.0]))
