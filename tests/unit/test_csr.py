"""Offsets cut and joined, for arrays and for tensors."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from saeserve import csr

counts = st.lists(st.integers(0, 3), max_size=5)


def offsets_of(counted: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.cumsum([0, *counted], dtype=np.int64)


@given(st.lists(counts, min_size=1, max_size=4))
def test_parts_that_are_joined_are_cut_again(parts: list[list[int]]) -> None:
    offsets = [offsets_of(counted) for counted in parts]
    joined = csr.joined(offsets, np.concatenate)
    assert joined.tolist() == offsets_of([n for counted in parts for n in counted]).tolist()
    tensor = csr.joined([torch.as_tensor(each) for each in offsets], torch.cat)
    assert torch.equal(tensor, torch.as_tensor(joined))
    start, places = 0, list(range(int(joined[-1])))
    for part in offsets:
        stop = start + len(part) - 1
        found, kept = csr.cut(joined, start, stop)
        assert found.tolist() == part.tolist()
        assert places[kept] == list(range(int(joined[start]), int(joined[stop])))
        start = stop
