"""The steps of BatchTopK and Matryoshka in Triton against autograd of the loss as written."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
from tests.fakes.device_steps import DEAD, OFF, Case, F, agree, equal_to_the_bit, not_finite

from saeserve.core.architectures.topk import fast
from saeserve.core.gpu import batch_choice
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec

WIDTHS: dict[str, Any] = {"widths": (4, 20, F)}
PLAIN = BatchTopKSpec(k=5, k_aux=6)
DETACHED = MatryoshkaSpec(k=5, k_aux=6, **WIDTHS, detach_inner=True, sort_by_frequency=True)
SPECS: list[Any] = [
    PLAIN,
    BatchTopKSpec(k=2.3, **OFF),
    BatchTopKSpec(k=5, k_aux=6, k_initial=20),
    BatchTopKSpec(k=F, k_aux=6),
    MatryoshkaSpec(k=5, k_aux=6, **WIDTHS),
    DETACHED,
    MatryoshkaSpec(k=5, **OFF, widths=(F,), detach_inner=True),
]
CASES = [
    Case(rows=3).of_float32(),
    Case(rows=2, d_in=577),
    Case(rows=5, grid=True),
    Case(rows=3, shift=-3.0),
    Case(rows=2, shift=-100.0),
    Case(rows=1, transcoder=True),
    Case(rows=3, hot=True),
    Case(rows=3, dead=list(range(F))),
    Case(rows=2, dead=DEAD, bound=len(DEAD) + 2),
]


@pytest.mark.sample
def test_a_step_has_the_gradients_of_the_loss() -> None:
    case = Case(d_in=33, rows=3)
    agree(case.on_device(DETACHED), case.written(DETACHED), case.tolerance)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradients_are_those_of_the_loss(spec: BatchTopKSpec) -> None:
    case = Case(rows=2, dead=DEAD)
    agree(case.on_device(spec), case.written(spec), case.tolerance)


@pytest.mark.parametrize("spec", [PLAIN, DETACHED], ids=["batchtopk", "matryoshka"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_kind_of_batch(spec: BatchTopKSpec, case: Case) -> None:
    """Odd widths, ties, few and no positive entries, other targets, hot and dead latents."""
    agree(case.on_device(spec), case.written(spec), case.tolerance)


def test_more_candidates_than_there_is_room_for_change_nothing() -> None:
    case = Case(rows=2, grid=True)
    with mock.patch.object(batch_choice, "_capacity", return_value=10):
        found = case.on_device(DETACHED)
    assert equal_to_the_bit(found, case.on_device(DETACHED))
    agree(found, case.written(DETACHED), case.tolerance)


def test_one_prefix_is_batchtopk_bit_for_bit() -> None:
    case = Case(rows=2, dead=DEAD)
    single = MatryoshkaSpec(k=5, k_aux=6, widths=(F,), detach_inner=True)
    assert equal_to_the_bit(case.on_device(PLAIN), case.on_device(single))


def test_two_steps_are_equal_to_the_bit() -> None:
    case = Case(rows=2, dead=DEAD)
    assert equal_to_the_bit(case.on_device(DETACHED), case.on_device(DETACHED))


@pytest.mark.parametrize("bad", [-math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["x", "target", "W_enc", "b_enc", "b_dec"])
def test_what_is_not_finite_shows(where: str, bad: float) -> None:
    spec = MatryoshkaSpec(k=2, **OFF, widths=(4, 9, 16))
    assert not_finite(Case(rows=1, transcoder=True, latents=16), spec, where, bad)


def test_what_the_kernels_do_not_compute_is_left_to_other_forms() -> None:
    case = Case()
    with mock.patch.object(batch_choice, "MOST", 6 * 5):
        assert fast.nested_step(PLAIN, case.params(), case.batch()) is fast.nested
    doubled = {name: value.double() for name, value in case.params().items()}
    assert fast.nested_step(PLAIN, doubled, case.batch()) is fast.nested
