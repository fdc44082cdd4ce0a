"""No operation that counts in 32 bits on CUDA sees more entries than they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from saeserve.core.architectures.active import batch_selection, preactivations
from saeserve.core.architectures.active.batch_selection import BatchSelected
from saeserve.core.architectures.active.preactivations import PreActivations

COUNTING = ("topk", "kthvalue", "sort", "argsort", "nonzero", "nonzero_static", "cumsum", "unique")
"""Operations of torch whose CUDA kernels have 32-bit counts, or had them in some release."""
MOST = 2**31 - 1


class Counts(TorchDispatchMode):
    """Refuses counting operations on more than `most` entries; `seen` has what was called."""

    def __init__(self, most: int) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] - its own argument is untyped
        self.most = most
        self.seen: dict[str, int] = {}

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in COUNTING:
            entries = args[0].numel()
            assert entries <= self.most, f"{name} of {entries} entries"
            self.seen[name] = max(self.seen.get(name, 0), entries)
        return func(*args, **(kwargs or {}))


def chosen(flat_M: Tensor, n: int) -> BatchSelected:
    """`top_entries` of an accelerator."""
    return batch_selection.in_parts(flat_M, min(n, flat_M.numel()))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """A low limit, and the choice that an accelerator makes."""
    monkeypatch.setattr(batch_selection, "MOST_AT_ONCE", 1000)
    monkeypatch.setattr(preactivations, "top_entries", chosen)
    return 1000


def pre_activations(dtype: torch.dtype) -> PreActivations:
    """70 rows, 300 latents."""
    draws = torch.Generator().manual_seed(0)
    x_BD = torch.randn(70, 16, generator=draws)
    W_FD = torch.randn(300, 16, generator=draws)
    b_F = torch.randn(300, generator=draws) / 4
    return PreActivations.compute(x_BD, W_FD, b_F, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 40, 299])
@pytest.mark.parametrize("among", [None, 200])
def test_rows_choose_the_same_in_blocks(
    few: int, dtype: torch.dtype, n: int, among: int | None
) -> None:
    h = pre_activations(dtype)
    among_F = None if among is None else torch.arange(300) < among
    with Counts(few) as counts:
        values, indices = h.top(n, among_F)
    assert counts.seen["topk"] > few // 2
    with mock.patch.object(batch_selection, "MOST_AT_ONCE", 2**28):
        whole = h.top(n, among_F)
    assert torch.equal(values, whole[0])
    finite = values > -torch.inf
    assert torch.equal(indices[finite], whole[1][finite])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 900, 5000, 20_900])
def test_batches_choose_the_same_in_parts(few: int, dtype: torch.dtype, n: int) -> None:
    h = pre_activations(dtype)
    with Counts(few) as counts:
        found = h.top_of_batch(n)
    assert "nonzero" in counts.seen or "nonzero_static" in counts.seen
    with mock.patch.object(batch_selection, "MOST_AT_ONCE", 2**28):
        whole = h.top_of_batch(n)
    for name in ("values_N", "rows_N", "latents_N"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert float(found.level) == float(whole.level)


class Merged(TorchDispatchMode):
    """Refuses lists of more than `most` entries that are chosen from again."""

    def __init__(self, most: int) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType] - its own argument is untyped
        self.most = most

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func._schema.name == "aten::index":
            assert found.numel() <= self.most, f"{found.numel()} entries are looked up"
        return found


@pytest.mark.parametrize("n", [1, 40, 47, 200, 900])
def test_what_parts_leave_fits_in_one_part(few: int, n: int) -> None:
    flat_M = torch.randn(21_000, generator=torch.Generator().manual_seed(1))
    with Merged(few):
        found = batch_selection.in_parts(flat_M, n)
    assert torch.equal(found.places_N, flat_M.topk(n).indices.sort().values)


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors, of which the code is to think that they are on a card. Which rows have no proof
    depends on data, so none is settled; blocks of that are tested above."""
    for module in (batch_selection, preactivations):
        monkeypatch.setattr(module, "accelerates", on_a_card)
    monkeypatch.setattr(PreActivations, "_settle", unsettled)
    monkeypatch.setattr("saeserve.core.kernels.rounding.usable", unusable)


def on_a_card(_: object) -> bool:
    """In place of `accelerates`."""
    return True


def unsettled(*_: object) -> None:
    """In place of `_settle`."""


def unusable(*_: object) -> bool:
    """In place of `usable`: no compiled kernel takes fake tensors."""
    return False


def fake(rows: int, latents: int, dtype: torch.dtype) -> PreActivations:
    x_BD, W_FD, b_F = torch.empty(rows, 16), torch.empty(latents, 16), torch.empty(latents)
    return PreActivations.compute(x_BD, W_FD, b_F, dtype)


SIZES = [(32_768, 131_072), (1_024, 2**24)]


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize(("rows", "latents"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_a_large_batch_on_cuda(rows: int, latents: int, dtype: torch.dtype) -> None:
    with FakeTensorMode(), Counts(MOST) as counts:
        values, indices = fake(rows, latents, dtype).top(4096)
    assert values.shape == indices.shape == (rows, 4096)
    assert counts.seen["topk"] > 2**26


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize(
    ("rows", "latents", "k"), [(*SIZES[0], 64), (31_488, 262_144, 32), (*SIZES[1], 512)]
)
def test_the_choice_of_a_large_batch_on_cuda(rows: int, latents: int, k: int) -> None:
    with FakeTensorMode(), Counts(MOST) as counts:
        found = fake(rows, latents, torch.float32).top_of_batch(k * rows)
    assert found.values_N.shape == (k * rows,)
    assert counts.seen["nonzero_static"] > 2**26


def test_the_blocks_of_wide_rows_are_short() -> None:
    for width in (100, 131_072, 2**24):
        assert 1 <= batch_selection.rows_at_once(width) <= MOST // width
