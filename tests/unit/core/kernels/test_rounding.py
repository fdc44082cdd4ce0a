"""Rounding to bfloat16 in one pass with norms: the bits are torch's, the norms are upper bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saeserve.core.kernels.compiled import available
from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.rounding import SAFETY, Rounded

pytestmark = [
    pytest.mark.skipif(not available(), reason="kernels are not compiled here"),
    pytest.mark.timeout(300),
]


def any_bits(rows: int, width: int, seed: int) -> Tensor:
    """Float32 of any bits: denormals, infinities and NaN among them."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31, (rows, width), generator=draws).int().view(torch.float32)


def ties(rows: int, width: int, seed: int) -> Tensor:
    """Float32 half-way between two bfloat16."""
    bits = any_bits(rows, width, seed).view(torch.int32)
    return ((bits & ~0xFFFF) | 0x8000).view(torch.float32)


@pytest.mark.parametrize("drawn", [any_bits, ties])
@given(rows=st.integers(1, 5), width=st.integers(1, 70), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_bits_are_those_of_torch(
    drawn: Callable[[int, int, int], Tensor], rows: int, width: int, seed: int
) -> None:
    exact = drawn(rows, width, seed)
    found, wanted = Rounded.of(exact).low_XD, exact.to(torch.bfloat16)
    assert torch.equal(found.isnan(), exact.isnan())
    known = ~exact.isnan()
    assert torch.equal(found.view(torch.int16)[known], wanted.view(torch.int16)[known])


def norm_of(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=1).sqrt()


@given(width=st.integers(1, 700), scale=st.integers(-30, 18), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_norms_are_bounds_and_hardly_more(width: int, scale: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    exact = torch.randn(3, width, generator=draws) * 10.0**scale
    found, wide = Rounded.of(exact), exact.double()
    lost = wide - found.low_XD.double()
    for bound, norm in ((found.norm_X, norm_of(wide)), (found.lost_X, norm_of(lost))):
        assert bool((bound.double() >= norm).all())
        assert bool((bound.double() <= SAFETY * 1.0001 * norm).all())


@given(rows=st.integers(1, 40), width=st.integers(1, 70), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_centred_rows_are_rounded_as_centred_rows_are(rows: int, width: int, seed: int) -> None:
    exact, centre = any_bits(rows, width, seed), any_bits(1, width, seed + 1)[0]
    centred, found = Rounded.centred(exact, centre)
    wanted = Rounded.of(exact - centre)
    for one, other in (
        (centred, exact - centre),
        (found.low_XD, wanted.low_XD),
        (found.norm_X, wanted.norm_X),
        (found.lost_X, wanted.lost_X),
    ):
        assert torch.equal(one.nan_to_num(nan=1.5), other.nan_to_num(nan=1.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["row", "bias", "centre"])
def test_what_is_not_finite_is_seen(dtype: torch.dtype, value: float, where: str) -> None:
    given_ = {"row": torch.ones(5, 9), "centre": torch.ones(9), "bias": torch.ones(4)}
    layer = torch.ones(4, 9)

    def seen() -> float:
        made = Encoder.centring(given_["row"], given_["centre"], layer, given_["bias"], dtype)
        return float(made.not_finite())

    assert seen() == 0
    given_[where].view(-1)[3] = value
    assert seen() != seen()


def test_double_rows_are_rounded_by_torch() -> None:
    exact = torch.randn(4, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = Rounded.of(exact)
    assert torch.equal(found.low_XD, exact.to(torch.bfloat16))
    lost = exact - exact.to(torch.bfloat16).double()
    assert bool((found.lost_X >= norm_of(lost)).all())
