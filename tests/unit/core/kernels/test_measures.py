"""What a step's kernel has measured of its gradients is what the optimiser would measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes.training import context
from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import Batch, Tensors
from saeserve.core.architectures.topk.fast import FastMatryoshka, FastTopK
from saeserve.core.kernels import measures, update_passes
from saeserve.core.kernels.compiled import array
from saeserve.core.ops.adam import AdamSettings, Moments
from saeserve.core.ops.update import Optimizer, update_
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec
from saeserve.core.specs.architectures.topk import TopKSpec

D, F, ROWS = 37, 60, 50
OFF: dict[str, Any] = {"k_aux": 6, "auxk_coefficient": 0.0}
CASES: dict[str, tuple[Architecture[Any], Any, list[int]]] = {
    "topk": (FastTopK(), TopKSpec(k=5, **OFF), []),
    "multi-topk": (FastTopK(), TopKSpec(k=5, **OFF, multi_topk_coefficient=0.1), []),
    "matryoshka": (FastMatryoshka(), MatryoshkaSpec(k=5, **OFF, widths=(20, F)), []),
    "auxk": (FastTopK(), TopKSpec(k=5, k_aux=6), [3, 7, 8]),
}
Step = tuple[Tensors, Tensors]
"""Parameters and gradients."""


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step(name: str) -> Step:
    architecture, spec, dead = CASES[name]
    W_dec = draw(F, D, seed=3)
    params: Tensors = {
        "W_enc": draw(F, D, seed=1),
        "b_enc": draw(F, seed=2) / 4,
        "W_dec": W_dec / W_dec.square().sum(dim=1, keepdim=True).sqrt(),
        "b_dec": draw(D, seed=4) / 4,
    }
    x_BD = draw(ROWS, D, seed=5)
    state: Tensors = {
        "variance": torch.tensor(5.0),
        "threshold": torch.tensor(0.0, dtype=torch.float64),
        "frequency": torch.full((F,), 0.1),
    }
    ctx = context(F, dead, scheduled=architecture.scheduled(spec, 20, 50))
    return params, architecture.gradients(spec, params, state, Batch(x_BD, x_BD), ctx).grads


def measured(params: Tensors, grads: Tensors, name: str, *, unit: bool) -> Any:  # noqa: ANN401 - an array
    found = np.empty((3, F))
    update_passes.measure(array(grads[name]), array(params[name]), unit, found)
    return found


@pytest.mark.parametrize("case", ["topk", "multi-topk", "matryoshka"])
@pytest.mark.parametrize(("name", "unit"), [("W_enc", False), ("W_dec", True), ("W_dec", False)])
def test_they_are_those_of_the_pass_to_the_bit(case: str, name: str, unit: bool) -> None:
    params, grads = step(case)
    found = measures.take(grads[name], params[name], unit=unit)
    assert found is not None
    assert np.array_equal(found, measured(params, grads, name, unit=unit))


def add_to_the_gradient(params: Tensors, grads: Tensors) -> None:
    del params
    grads["W_dec"].add_(1.0)


def change_the_parameter(params: Tensors, grads: Tensors) -> None:
    del grads
    params["W_dec"].mul_(2.0)


def take_them(params: Tensors, grads: Tensors) -> None:
    assert measures.take(grads["W_dec"], params["W_dec"], unit=True) is not None


def move_the_parameters(params: Tensors, grads: Tensors) -> None:
    moments = Moments.zeros(params)
    optimizer = Optimizer(AdamSettings(beta1=0.9, beta2=0.99, eps=1e-8), 1.0, 0.01)
    others = {name: value.clone() for name, value in grads.items()}
    update_(params, others, moments, frozenset({"W_dec"}), optimizer, 0)


@pytest.mark.parametrize(
    "change", [add_to_the_gradient, change_the_parameter, take_them, move_the_parameters]
)
def test_they_hold_until_anything_changes(change: Callable[[Tensors, Tensors], None]) -> None:
    params, grads = step("topk")
    change(params, grads)
    assert measures.take(grads["W_dec"], params["W_dec"], unit=True) is None


def test_auxk_makes_the_optimiser_measure_again() -> None:
    params, grads = step("auxk")
    assert measures.take(grads["W_enc"], params["W_enc"], unit=False) is None


def test_rows_of_which_no_dot_is_known_are_measured() -> None:
    params, grads = step("topk")
    assert measures.take(grads["W_enc"], params["W_enc"], unit=True) is None


@pytest.mark.parametrize("case", CASES)
def test_a_step_with_them_is_the_step_without(case: str) -> None:
    moved: list[Tensors] = []
    for known in (True, False):
        params, grads = step(case)
        own = grads if known else {name: value.clone() for name, value in grads.items()}
        optimizer = Optimizer(AdamSettings(beta1=0.9, beta2=0.99, eps=1e-8), 0.01, 0.01)
        norm = update_(params, own, Moments.zeros(params), frozenset({"W_dec"}), optimizer, 0)
        moved.append(params | {"norm": norm})
    assert all(torch.equal(moved[0][name], moved[1][name]) for name in moved[0])
