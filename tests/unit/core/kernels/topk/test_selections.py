"""Exact choices among pre-activations, against sorting all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saeserve.core.architectures.active.batch_selection import top_entries
from saeserve.core.kernels import encoder as kernels_encoder
from saeserve.core.kernels import ranks
from saeserve.core.kernels.compiled import array
from saeserve.core.kernels.encoder import ROWS, Encoder
from saeserve.core.kernels.topk import batch_selection

TYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@TYPES
@given(
    rows=st.sampled_from([1, 5, 70]),
    width=st.sampled_from([1, 7, 64, 500]),
    share=st.sampled_from([0.0, 0.1, 1.0]),
    shift=st.sampled_from([-3.0, 0.0, 2.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60)
def test_the_top_columns_are_those_of_a_stable_sort(
    dtype: torch.dtype, rows: int, width: int, share: float, shift: float, seed: int
) -> None:
    """Few distinct values, of both signs: many ties, and rows that lack positive entries."""
    n = max(1, int(share * width))
    h = ((drawn(rows, width, seed=seed) * 3).round() / 4 + shift).to(dtype)
    h[h == 0] = 0.0
    found = torch.empty(rows, n, dtype=torch.int64)
    ranks.top_columns(ranks.bits(h), array(found))
    expected = h.double().sort(dim=1, descending=True, stable=True).indices[:, :n]
    assert torch.equal(found.sort(dim=1).values, expected.sort(dim=1).values)


@TYPES
def test_rows_of_nan_and_infinity_are_cut_within_bounds(dtype: torch.dtype) -> None:
    h = drawn(4, 100, seed=1, dtype=dtype)
    h[0], h[1], h[2, 10:90], h[3, 7] = torch.nan, -torch.nan, -torch.inf, torch.nan
    found = torch.full((4, 30), -1)
    ranks.top_columns(ranks.bits(h), array(found))
    assert bool((found.sort(dim=1).values.diff(dim=1) > 0).all())
    assert int(found.min()) >= 0
    assert int(found.max()) < 100
    assert int(((found[2] >= 10) & (found[2] < 90)).sum()) == 10
    assert bool((found[3] == 7).any())


def encoder(rows: int, latents: int, dtype: torch.dtype, shift: float = 0.0) -> Encoder:
    b = drawn(latents, seed=3) / 4 + shift
    return Encoder(drawn(rows, 12, seed=1), drawn(latents, 12, seed=2) / 3, b, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pre_activations_of_blocks_are_those_of_the_whole(dtype: torch.dtype) -> None:
    """Two blocks, the second one short; in bfloat16 the bias is not rounded before it is added,
    where the processor multiplies that."""
    known = encoder(ROWS + 9, 50, dtype)
    blocks = [(rows, h.clone()) for rows, h in known.blocks()]
    assert [rows.start for rows, _ in blocks] == [0, ROWS]
    low = known.x_BD.to(dtype).float() @ known.W_FD.to(dtype).float().T + known.b_F
    found = torch.cat([h for _, h in blocks])
    assert found.dtype == dtype
    rounded = 1e-6 if vars(kernels_encoder)["_packs"]() else 2**-6
    tolerance: dict[str, Any] = {"rtol": 2**-8, "atol": rounded} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(found.float(), low, **tolerance)


@pytest.mark.parametrize("slacks", [(1.2, 2.0, 8.0), (0.3, 0.5), (100.0,)], ids=str)
@pytest.mark.parametrize("shift", [0.0, -2.5])
@pytest.mark.parametrize("n", [1, 700, 20_000])
def test_what_a_batch_keeps_does_not_depend_on_the_guess(
    n: int, shift: float, slacks: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guesses that are too high, so that blocks are computed again, and far too low ones."""
    monkeypatch.setattr(batch_selection, "_SLACKS", slacks)
    known = encoder(ROWS + 40, 90, torch.float32, shift)
    h = torch.cat([block.clone() for _, block in known.blocks()])
    expected = top_entries(h.flatten(), n)
    top = batch_selection.top_of_batch(known, n, (10, 90))
    edges, latents = top.entries.edges_BE, top.entries.latents
    rows = top.entries.row_of_entry
    assert torch.equal(rows * 90 + latents, expected.places_N)
    assert torch.equal(top.entries.values, h.flatten()[expected.places_N])
    assert torch.equal(top.level, expected.level)
    narrow = torch.bincount(rows[latents < 10], minlength=edges.shape[0])
    assert torch.equal(edges[:, 1] - edges[:, 0], narrow)


def test_the_guess_decides_nothing_after_a_low_precision_gemm_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = encoder(ROWS + 40, 90, torch.bfloat16)
    usual = batch_selection.top_of_batch(known, 700, (90,))
    monkeypatch.setattr(batch_selection, "_SLACKS", (0.4, 1.01))
    other = batch_selection.top_of_batch(known, 700, (90,))
    assert torch.equal(usual.level, other.level)
    for name in ("values", "latents", "edges_BE"):
        assert torch.equal(getattr(usual.entries, name), getattr(other.entries, name)), name
