"""The whole TopK step in Triton against autograd of the loss as written."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
import torch
from tests.fakes.device_steps import DEAD, OFF, Case, F, agree, equal_to_the_bit, not_finite

from saeserve.core.architectures.topk import fast, on_device
from saeserve.core.gpu import choice
from saeserve.core.specs.architectures.topk import TopKSpec


@pytest.mark.sample
def test_a_step_has_the_gradients_of_the_loss() -> None:
    spec, case = TopKSpec(k=5, **OFF), Case(d_in=33)
    agree(case.on_device(spec), case.written(spec), case.tolerance)


@pytest.mark.parametrize(
    "changes",
    [
        {"d_in": 577, "rows": 2},
        {"grid": True},
        {"shift": -3.0},
        {"transcoder": True},
        {"hot": True},
        {"encoder_dtype": torch.float32},
        {"dead": DEAD},
        {"dead": list(range(F))},
        {"dead": DEAD, "bound": len(DEAD) + 2},
        {"dead": [], "bound": 9},
    ],
    ids=str,
)
def test_gradients_are_those_of_the_loss(changes: dict[str, Any]) -> None:
    """Odd widths, ties, few positive entries, other targets, hot and dead latents."""
    case = Case(**changes)
    spec = TopKSpec(k=1 if case.hot else 5, k_aux=6)
    agree(case.on_device(spec), case.written(spec), case.tolerance)


@pytest.mark.parametrize(
    ("k", "changes"),
    [
        (5, {"grid": True}),
        (5, {"shift": -3.0}),
        (5, {"transcoder": True, "dead": DEAD}),
        (F // 3, {"grid": True}),
        (F, {}),
    ],
    ids=str,
)
def test_gradients_of_multi_topk_are_those_of_the_loss(k: int, changes: dict[str, Any]) -> None:
    spec = TopKSpec(k=k, k_aux=6, multi_topk_coefficient=1 / 8)
    case = Case(rows=3, **changes)
    agree(case.on_device(spec), case.written(spec), case.tolerance)


@pytest.mark.parametrize("encoder_dtype", [torch.bfloat16, torch.float32])
def test_multi_topk_in_both_precisions(encoder_dtype: torch.dtype) -> None:
    spec = TopKSpec(k=3, **OFF, multi_topk_coefficient=1 / 8)
    case = Case(d_in=300, rows=3, encoder_dtype=encoder_dtype)
    agree(case.on_device(spec), case.written(spec), case.tolerance)


@pytest.mark.parametrize("k", [1, F])
def test_one_latent_or_all_of_them(k: int) -> None:
    spec, case = TopKSpec(k=k, k_aux=40), Case(dead=DEAD)
    agree(case.on_device(spec), case.written(spec), case.tolerance)


def test_two_steps_are_equal_to_the_bit() -> None:
    spec, case = TopKSpec(k=5, k_aux=6), Case(dead=DEAD)
    assert equal_to_the_bit(case.on_device(spec), case.on_device(spec))


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["x", "target", "W_enc", "b_enc", "b_dec"])
def test_what_is_not_finite_shows(where: str, bad: float) -> None:
    # Where it is infinite in Multi-TopK, where not in TopK.
    spec = TopKSpec(k=2, **OFF, multi_topk_coefficient=1 / 8 if math.isinf(bad) else 0.0)
    assert not_finite(Case(rows=1, transcoder=True, latents=16), spec, where, bad)


def test_what_the_kernels_do_not_compute_is_left_to_other_forms() -> None:
    case = Case()
    with mock.patch.object(choice, "LONGEST_LIST", choice.ENTRIES + 19):
        for k, expected in ((4, on_device.topk), (5, fast.topk)):
            wide = TopKSpec(k=k, k_aux=6, multi_topk_coefficient=1 / 8)
            assert fast.topk_step(wide, case.params(), case.batch()) is expected
    doubled = {name: value.double() for name, value in case.params().items()}
    assert fast.topk_step(TopKSpec(k=5, **OFF), doubled, case.batch()) is fast.topk
