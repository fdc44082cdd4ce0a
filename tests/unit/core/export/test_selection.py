"""Top-k is exact and its ties are decided."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.ops.selection import top_k
from saeserve.errors import SpecError


@st.composite
def _rows_and_k(draw: st.DrawFn) -> tuple[list[list[int]], int]:
    width = draw(st.integers(1, 8))
    row = st.lists(st.integers(-2, 2), min_size=width, max_size=width)
    return draw(st.lists(row, min_size=1, max_size=5)), draw(st.integers(1, width))


@given(_rows_and_k())
def test_keeps_the_largest_and_among_equals_the_first(case: tuple[list[list[int]], int]) -> None:
    rows, k = case
    selected = top_k(torch.tensor(rows, dtype=torch.float32), k)
    for row, values, indices in zip(rows, selected.values_BK, selected.indices_BK, strict=True):
        best = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        assert [int(i) for i in indices] == sorted(best)
        assert [float(v) for v in values] == [row[i] for i in sorted(best)]


def test_an_infinite_tie_is_decided_too() -> None:
    h_BF = torch.tensor([[torch.inf, 1.0, torch.inf, torch.inf]])
    assert torch.equal(top_k(h_BF, 2).indices_BK, torch.tensor([[0, 2]]))


@pytest.mark.parametrize("k", [0, 4])
def test_an_impossible_k_is_refused(k: int) -> None:
    with pytest.raises(SpecError, match="between 1 and 3"):
        top_k(torch.zeros(2, 3), k)
