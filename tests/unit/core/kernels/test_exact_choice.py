"""After a GEMM in bfloat16 the chosen latents are the largest of float32's, whatever the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saeserve.core.architectures.active.preactivations import PreActivations
from saeserve.core.kernels.compiled import available
from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.rounding import Errors, Rounded, highest
from saeserve.core.kernels.topk import batch_selection, row_selection

WIDE = 32_768


@dataclass(frozen=True)
class Layer:
    x: Tensor
    W: Tensor
    b: Tensor

    @property
    def h(self) -> Tensor:
        return self.x.double() @ self.W.double().T + self.b.double()

    @property
    def resolution(self) -> Tensor:
        """Float32's, of each row: closer values may change places in any float32 GEMM."""
        largest = lengths(self.W).amax() + self.b.double().abs().amax()
        return 2**-24 * self.x.shape[1] * lengths(self.x) * largest


def lengths(rows: Tensor) -> Tensor:
    return rows.double().square().sum(dim=1).sqrt()


Choice = Callable[[Layer, int], Tensor]
"""bool [B, F]: what is chosen."""


def by_kernels(layer: Layer, k: int) -> Tensor:
    encoder = Encoder(layer.x, layer.W, layer.b, torch.bfloat16)
    return as_mask(row_selection.top(encoder, (k,)), layer)


def by_torch(layer: Layer, k: int) -> Tensor:
    values, indices = PreActivations.compute(layer.x, layer.W, layer.b, torch.bfloat16).top(k)
    return torch.zeros(layer.h.shape).scatter(1, indices, values.relu()) > 0


def of_batch_by_kernels(layer: Layer, n: int) -> tuple[Tensor, Tensor]:
    encoder = Encoder(layer.x, layer.W, layer.b, torch.bfloat16)
    found = batch_selection.top_of_batch(encoder, n, (layer.W.shape[0],))
    return as_mask(found.entries, layer), found.level


def of_batch_by_torch(layer: Layer, n: int) -> tuple[Tensor, Tensor]:
    top = PreActivations.compute(layer.x, layer.W, layer.b, torch.bfloat16).top_of_batch(n)
    chosen = torch.zeros(layer.h.shape, dtype=torch.bool)
    chosen[top.rows_N, top.latents_N] = True
    return chosen, top.level


def as_mask(entries: row_selection.Entries, layer: Layer) -> Tensor:
    chosen = torch.zeros(layer.h.shape, dtype=torch.bool)
    chosen[entries.row_of_entry, entries.latents] = True
    return chosen


COMPILED = pytest.mark.skipif(not available(), reason="kernels are not compiled here")
WAYS = pytest.mark.parametrize("way", [pytest.param(by_kernels, marks=COMPILED), by_torch])
BATCH_WAYS = pytest.mark.parametrize(
    "way", [pytest.param(of_batch_by_kernels, marks=COMPILED), of_batch_by_torch]
)


def drawn(kind: str, rows: int, latents: int, width: int, seed: int) -> Layer:
    """Rows and weights of several kinds; a bias makes some rows lack positive entries."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=draws)
    weights = torch.randn(latents, width, generator=draws) / width**0.5
    b = torch.randn(latents, generator=draws) / 8
    if kind == "uneven":
        x = (
            x
            * torch.exp(torch.randn(width, generator=draws))
            * torch.logspace(-3, 2, rows)[:, None]
        )
        weights = weights * torch.exp(torch.randn(latents, 1, generator=draws))
    elif kind == "alike":
        weights = weights[:1] + weights / 300
    elif kind == "silent":
        b = b - 2.5
    return Layer(x, weights, b)


# The first test compiles kernels: half a minute, more on a busy machine.
pytestmark = pytest.mark.timeout(600)
KINDS = st.sampled_from(["even", "uneven", "alike", "silent"])
SIZES = st.sampled_from([(600, 24), (4096, 64), (4096, 300), (WIDE, 128)])


def wanted(h: Tensor, n: int) -> Tensor:
    """bool: the n largest of each row, positive ones only."""
    last = h.topk(n, dim=1).values[:, -1:]
    return (h >= last) & (h > 0)


@WAYS
@given(kind=KINDS, size=SIZES, k=st.sampled_from([1, 8, 64, 256, 512]), seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_each_row_keeps_the_largest_of_float32(
    way: Choice, kind: str, size: tuple[int, int], k: int, seed: int
) -> None:
    layer = drawn(kind, 6, *size, seed)
    h, chosen = layer.h, way(layer, k)
    wrong = chosen != wanted(h, k)
    level = h.topk(k, dim=1).values[:, -1:].clamp_min(0)
    assert not bool((wrong & ((h - level).abs() > layer.resolution[:, None])).any())
    assert bool((chosen.sum(dim=1) <= k).all())


@BATCH_WAYS
@given(kind=KINDS, size=SIZES, k=st.sampled_from([1, 8, 64, 512]), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_a_batch_keeps_the_largest_of_float32(
    way: Callable[[Layer, int], tuple[Tensor, Tensor]],
    kind: str,
    size: tuple[int, int],
    k: int,
    seed: int,
) -> None:
    layer = drawn(kind, 6, *size, seed)
    h, n = layer.h, k * 6
    chosen, level = way(layer, n)
    wrong = chosen != wanted(h.view(1, -1), n).view_as(h)
    edge = h.flatten().topk(n + 1).values[-2:].clamp_min(0)
    resolution = layer.resolution[:, None]
    assert not bool((wrong & ((h - edge[0]).abs() > resolution)).any())
    assert int(chosen.sum()) <= n
    assert abs(float(level) - float(edge.mean())) <= float(resolution.max())


def near_ties(rows: int) -> tuple[Layer, Tensor]:
    """32,768 pre-activations between 1 and 1.03, all different and exact in float32, of which
    bfloat16 knows five; and their ranks from the largest on."""
    draws = torch.Generator().manual_seed(7)
    ranks = torch.randperm(WIDE, generator=draws)
    W = torch.stack([torch.ones(WIDE), (WIDE - ranks) * 2.0**-20], dim=1)
    return Layer(torch.ones(rows, 2), W, torch.zeros(WIDE)), ranks


@WAYS
@pytest.mark.parametrize("k", [1, 32, 512])
def test_rows_whose_entries_bfloat16_cannot_tell_apart(way: Choice, k: int) -> None:
    layer, ranks = near_ties(3)
    assert torch.equal(way(layer, k), (ranks < k).expand(3, WIDE))


@BATCH_WAYS
@pytest.mark.parametrize("k", [1, 32, 512])
def test_a_batch_whose_entries_bfloat16_cannot_tell_apart(
    way: Callable[[Layer, int], tuple[Tensor, Tensor]], k: int
) -> None:
    layer, ranks = near_ties(3)
    chosen, level = way(layer, 3 * k)
    assert torch.equal(chosen, (ranks < k).expand(3, WIDE))
    values = layer.h[0].sort(descending=True).values[k - 1 : k + 1]
    assert float(level) == float(values.mean())


def aligned(k: int) -> Layer:
    """Errors of rounding that all have one sign: x is rounded down where the k largest latents
    look, and up where the others do, which come first."""
    low, high = torch.full((128,), 1 + 0.49 * 2**-7), torch.full((128,), 1 + 0.51 * 2**-7)
    W = torch.zeros(4096, 256)
    W[-k:, :128], W[:-k, 128:] = 1.0, 1 - 2**-8
    return Layer(torch.cat([low, high])[None].repeat(2, 1), W, torch.zeros(4096))


@WAYS
@pytest.mark.parametrize("k", [8, 300])
def test_errors_of_rounding_that_add_up_are_within_the_bound(way: Choice, k: int) -> None:
    assert torch.equal(way(aligned(k), k), (torch.arange(4096) >= 4096 - k).expand(2, 4096))


@given(kind=KINDS, size=st.sampled_from([(600, 24), (900, 300)]), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_the_bound_holds_for_every_entry(kind: str, size: tuple[int, int], seed: int) -> None:
    for layer in (drawn(kind, 20, *size, seed), aligned(8)):
        low_b = layer.b.bfloat16()
        rounded = PreActivations.compute(layer.x, layer.W, layer.b, torch.bfloat16).h_BF.double()
        errors = Errors.of(Rounded.of(layer.x), Rounded.of(layer.W), layer.b, low_b)
        bounds = (
            errors.lost_F * errors.norm_B[:, None]
            + errors.norm_F * errors.lost_B[:, None]
            + errors.bias_F
        )
        assert bool((layer.h <= highest(rounded, bounds)).all())
        assert bool((layer.h >= -highest(-rounded, bounds)).all())
        assert bool((bounds <= errors.largest()[:, None] * (1 + 1e-6)).all())


def unusable(*_tensors: Tensor) -> bool:
    return False


def test_norms_of_compiled_loops_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = drawn("uneven", 9, 50, 77, seed=1)
    tiny = Layer(layer.x * 1e-25, layer.W * 1e-20, layer.b)
    for one in (layer, tiny, Layer(layer.x.double(), layer.W.double(), layer.b.double())):
        found = Errors.of(Rounded.of(one.x), Rounded.of(one.W), one.b, one.b)
        with monkeypatch.context() as patched:
            patched.setattr("saeserve.core.kernels.rounding.usable", unusable)
            plain = Errors.of(Rounded.of(one.x), Rounded.of(one.W), one.b, one.b)
        for name in ("norm_B", "lost_B", "norm_F", "lost_F"):
            assert bool((getattr(found, name) > 0).all()), name
            torch.testing.assert_close(getattr(found, name), getattr(plain, name))


def test_a_choice_among_few_latents_is_float32s_too() -> None:
    layer, ranks = near_ties(2)
    among = torch.arange(WIDE) % 3 == 0
    h = PreActivations.compute(layer.x, layer.W, layer.b, torch.bfloat16)
    _, indices = h.top(40, among_F=among)
    expected = ranks.masked_fill(~among, WIDE).argsort()[:40]
    assert torch.equal(indices, expected.expand(2, 40))
