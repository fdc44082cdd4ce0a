"""A step of every architecture, counted on the meta device, against the committed budgets."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache

import pytest
import torch
from bench.gpu.budgets import derived, table
from bench.gpu.budgets.counting import Counting, Counts
from bench.gpu.budgets.steps import ARCHITECTURES, SHAPES, count, spec_of, state_of
from bench.gpu.lab import Shape
from torch import Tensor
from torch.nn import functional

from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu_dense import choice

pytest.importorskip("triton", reason="Triton is not installed")
BUDGETS = table.read()
WAITS: dict[str, frozenset[str]] = {}
"""Functions in which the host still waits for the GPU in every step, and the steps that call
them."""
ABOVE: dict[str, float] = {
    "window": 1.8,  # Sums have a part of the likely bound that was not planned, wide rows more.
    "gradients": 1.15,  # W_dec is read too, to measure what the update would read again.
}
"""Parts of TopK's step that move more than was derived: at most so many times as much."""
BELOW = {"gradients": 0.8, "window": 0.6}
"""The same of less: with wide rows the reconstruction makes the values' gradients too; narrow rows
leave five entries open where eight were planned."""
ABOVE_DENSE: dict[str, float] = {
    "passes": 1.4,  # Six numbers a pre-activation, and the sums of each block of rows.
    "window": 9.1,  # Of a start with half of all entries active; weights are gathered in float32.
    "update": 1.2,  # Gradients are read a second time to measure them.
}
"""The same of JumpReLU's."""
PRODUCTS = dict.fromkeys(ARCHITECTURES, 1) | {"jumprelu": 5, "relu": 5, "gated": 7}
"""Dense products of a step, of 2 B d m FLOPs each."""
TINY = Shape(96, 256, 4, 32)


@cache
def counted(shape: str, architecture: str) -> Counts:
    return count(architecture, SHAPES[shape])


@pytest.mark.parametrize("name", table.names())
def test_a_step_keeps_to_its_budget(name: str) -> None:
    shape, architecture = name.split()
    found = table.row_of(counted(shape, architecture))
    assert list(table.over(found, BUDGETS[name])) == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_host_waits_where_it_is_known_to_and_nowhere_else(
    shape: str, architecture: str
) -> None:
    found = {each.split(" in ")[1] for each in counted(shape, architecture).waits}
    assert found == {place for place, steps in WAITS.items() if architecture in steps}


def test_the_table_has_a_row_for_each_step() -> None:
    assert sorted(BUDGETS) == sorted(table.names())


@pytest.mark.parametrize("architecture", PRODUCTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_products_are_few_and_of_16_bits_and_so_is_what_has_all_latents(
    shape: str, architecture: str
) -> None:
    counts, sizes = counted(shape, architecture), SHAPES[shape]
    one = 2 * sizes.batch * sizes.d * sizes.m
    assert counts.product_flops == {"float16": PRODUCTS[architecture] * one}
    assert counts.widest == 2


@pytest.mark.parametrize("part", derived.TOPK)
@pytest.mark.parametrize("shape", ["S1", "S2"])
def test_topk_does_in_each_part_what_was_derived_for_it(shape: str, part: str) -> None:
    found = derived.ratio(derived.TOPK[part], SHAPES[shape], counted(shape, "topk"))
    assert BELOW.get(part, 0.9) <= found <= ABOVE.get(part, 1.1)


@pytest.mark.parametrize("part", derived.JUMPRELU)
def test_jumprelu_does_in_each_part_what_was_derived_for_it(part: str) -> None:
    found = derived.ratio(derived.JUMPRELU[part], SHAPES["S3"], counted("S3", "jumprelu"))
    assert 0.9 <= found <= ABOVE_DENSE.get(part, 1.1)


@pytest.mark.parametrize("parts", [derived.TOPK, derived.JUMPRELU], ids=["topk", "jumprelu"])
def test_what_was_derived_takes_the_time_that_was_planned_at_the_planned_rates(
    parts: dict[str, derived.Part],
) -> None:
    for name, part in parts.items():
        assert part.ms
        for shape, planned in part.ms:
            found = derived.planned_ms(part, SHAPES[shape])
            assert found == pytest.approx(planned, rel=0.13, abs=0.012), (name, shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_topk_takes_as_long_as_was_derived_at_the_planned_rates(shape: str) -> None:
    planned = sum(derived.planned_ms(part, SHAPES[shape]) for part in derived.TOPK.values())
    assert derived.counted_ms(derived.TOPK, counted(shape, "topk")) == pytest.approx(
        planned, rel=0.1
    )


def test_jumprelu_with_few_active_latents_takes_as_long_as_was_derived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tenth of the entries are unsure that are so at a start (`choice.UNSURE`)."""
    monkeypatch.setattr(choice, "UNSURE", choice.UNSURE / 10)
    planned = sum(derived.planned_ms(part, SHAPES["S3"]) for part in derived.JUMPRELU.values())
    found = derived.counted_ms(derived.JUMPRELU, count("jumprelu", SHAPES["S3"]))
    assert found == pytest.approx(planned, rel=0.1)


def test_a_step_over_its_budget_is_named() -> None:
    budget = table.row_of(counted("S1", "topk"))
    slower = budget | {"gb": budget["gb"] * 1.02, "product_tflop": {"float32": 0.1}}
    assert list(table.over(slower, budget)) == [
        "product_tflop.float32 is 0.1 and may be 0",
        f"gb is {slower['gb']:g} and may be {budget['gb']:g}",
    ]


def test_the_state_has_the_shapes_of_a_real_one() -> None:
    state = state_of(spec_of("gated", TINY), TINY)
    assert {name: tuple(value.shape) for name, value in state.params.items()} == {
        **dict.fromkeys(("W_enc", "W_dec"), (256, 96)),
        **dict.fromkeys(("b_gate", "b_mag", "r_mag"), (256,)),
        "b_dec": (96,),
    }
    assert all(value.is_meta for value in state.tensors().values())


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def test_operations_are_counted_for_what_they_read_and_write() -> None:
    x, W = meta(8, 4), meta(16, 4)
    with Counting(8 * 16) as counting:
        h = x @ W.T
        h.add_(1.0)
        h.half().view(-1)
        torch.empty_like(h)
    counts = counting.counts
    assert counts.operations == {"mm": 1, "add_": 1, "_to_copy": 1}
    assert counts.product_flops == {"float32": 2 * 8 * 4 * 16}
    product, added, rounded = 4 * (8 * 4 + 16 * 4 + 8 * 16), 2 * 4 * 8 * 16, 6 * 8 * 16
    assert counts.bytes == product + added + rounded
    assert (counts.gathered, counts.widest, counts.starts) == (0, 4, 3)
    assert not counts.waits


def test_what_is_written_to_memory_that_was_given_is_counted_once() -> None:
    x, W, h = meta(8, 4), meta(16, 4), meta(8, 16)
    with Counting(1) as counting:
        torch.mm(x, W.T, out=h)
    assert counting.counts.operations == {"mm": 1}
    assert counting.counts.product_flops == {"float32": 2 * 8 * 4 * 16}
    assert counting.counts.bytes == 4 * (8 * 4 + 16 * 4 + 8 * 16)


def test_gathered_rows_are_counted_apart() -> None:
    table_FD, places, values = meta(100, 8), meta(5, 3, dtype=torch.int64), meta(5, 3)
    with Counting(1) as counting:
        functional.embedding_bag(places, table_FD, per_sample_weights=values, mode="sum")
    assert counting.counts.gathered == 15 * 8 * 4


def test_memory_that_is_let_go_of_is_not_held() -> None:
    kept = meta(1000)
    counting = Counting(1)
    counting.hold([kept])
    with counting:
        first = kept + 1
        first = first + 1
        view = first[:10]
        del first
        second = view + 1
    gc.collect()
    assert counting.counts.peak == 4 * 3000
    assert counting.counts.live == 4 * (2000 + 10)
    del view, second
    assert counting.counts.live == 4 * 1000


class Kernel:
    """Stands for one of Triton's; it cannot be started."""

    __name__ = "double_kernel"


def test_kernels_of_ours_are_counted_with_torchs_operations() -> None:
    with Counting(1) as counting:
        numbers = meta(10) + 1
        launch(Kernel(), (1,), (numbers,), Work(bytes=80, gathered=7))  # pyright: ignore[reportArgumentType]
    assert (counting.counts.bytes, counting.counts.gathered) == (80 + 80, 7)
    assert counting.counts.starts == 2


def constant(x: Tensor) -> object:
    return torch.tensor([1.0, 2.0], device=x.device)


def to_the_host(x: Tensor) -> object:
    return x.cpu()


def to_the_device(x: Tensor) -> object:
    return torch.ones(3).to(x.device)


def condition(x: Tensor) -> object:
    return bool(x.sum() > 0)


def mask(x: Tensor) -> object:
    return x[x > 0]


def written(x: Tensor) -> object:
    return x.copy_(torch.ones(3))


@pytest.mark.parametrize("copy", [constant, to_the_host, to_the_device, condition, mask, written])
def test_what_the_host_waits_for_is_named(copy: Callable[[Tensor], object]) -> None:
    x = meta(3)
    with Counting(1) as counting:
        copy(x)
    assert counting.counts.waits.total() == 1


def test_a_number_of_the_hosts_is_no_copy() -> None:
    with Counting(1) as counting:
        (meta(3) * torch.tensor(2.0) + 1).clamp_min(0.5)
        meta(3).new_zeros(()).fill_(3)
    assert not counting.counts.waits
