"""CSR rows against the dense matrices that they stand for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.sparse_rows import assert_well_formed, from_dense
from torch import Tensor

from saeserve.core.ops import sparse
from saeserve.errors import DataMismatchError

D_SAE = 6


def _dense(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(-1, D_SAE)


dense_rows = st.lists(
    st.lists(st.sampled_from([0, 0, 0, -1, 2]), min_size=D_SAE, max_size=D_SAE), max_size=5
).map(_dense)


@given(dense_rows)
def test_dense_rows_survive_the_round_trip(f_BF: Tensor) -> None:
    features = from_dense(f_BF)
    assert_well_formed(features)
    assert features.rows == f_BF.shape[0]
    assert torch.equal(sparse.to_dense(features), f_BF)


@given(dense_rows)
def test_decode_is_the_matrix_product(f_BF: Tensor) -> None:
    W_dec_FO = torch.arange(D_SAE * 3, dtype=torch.float32).view(D_SAE, 3)
    assert torch.equal(sparse.decode(from_dense(f_BF), W_dec_FO), f_BF @ W_dec_FO)


@given(st.lists(dense_rows, min_size=1, max_size=4))
def test_slices_undo_concat(parts: list[Tensor]) -> None:
    joined = sparse.concat([from_dense(part) for part in parts])
    assert torch.equal(sparse.to_dense(joined), torch.cat(parts))
    start = 0
    for expected in parts:
        part = sparse.slice_rows(joined, start, start + expected.shape[0])
        start += expected.shape[0]
        assert_well_formed(part)
        assert torch.equal(sparse.to_dense(part), expected)


@pytest.mark.parametrize("stored", [1, 40])
def test_few_and_many_entries_decode_alike(stored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "BLOCK_BYTES", 3 * 4 * 64)
    draws = torch.Generator().manual_seed(stored)
    f_BF = torch.zeros(7, 64)
    f_BF[:, :stored] = torch.rand(7, stored, generator=draws) + 0.5
    W_dec_FO = torch.randn(64, 5, generator=draws)
    torch.testing.assert_close(
        sparse.decode(from_dense(f_BF), W_dec_FO), f_BF @ W_dec_FO, rtol=1e-5, atol=1e-5
    )


def test_rows_of_other_widths_are_not_joined() -> None:
    parts = [from_dense(torch.ones(1, width)) for width in (2, 3)]
    with pytest.raises(DataMismatchError, match=r"widths \[2, 3\]"):
        sparse.concat(parts)
