"""The whole TopK step in Triton against autograd of the loss as written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tests.fakes.training import context
from torch import Tensor

from saeserve.core.architectures.base import by_autograd
from saeserve.core.architectures.contract import Batch, Context, StepOutput, Tensors
from saeserve.core.architectures.topk import fast, on_device
from saeserve.core.architectures.topk.fast import FastTopK
from saeserve.core.architectures.topk.loss import TopK
from saeserve.core.specs.architectures.topk import TopKSpec

F = 60
DEAD = list(range(3, F, 4))
OFF: dict[str, Any] = {"k_aux": 6, "auxk_coefficient": 0.0}


@dataclass(frozen=True)
class Case:
    """A step's arguments. On a grid arithmetic is exact, so that twin latents always tie."""

    d_in: int = 7
    rows: int = 6
    shift: float = 0.0
    grid: bool = False
    transcoder: bool = False
    hot: bool = False
    dead: list[int] = field(default_factory=list)
    encoder_dtype: torch.dtype = torch.bfloat16
    bound: int | None = None

    def params(self) -> Tensors:
        d_out = self.d_in + 4 if self.transcoder else self.d_in
        named = {
            "W_enc": self.draw(F, self.d_in, seed=1),
            "b_enc": 0.25 * self.draw(F, seed=2) + self.shift,
            "W_dec": self.draw(F, d_out, seed=3),
            "b_dec": 0.25 * self.draw(d_out, seed=4),
        }
        if self.transcoder:
            named["b_pre"] = 0.25 * self.draw(self.d_in, seed=6)
        if self.grid:
            named["W_enc"][F // 2 :] = named["W_enc"][: F // 2]
            named["b_enc"][F // 2 :] = named["b_enc"][: F // 2]
        if self.hot:
            named["b_enc"][17] = 100.0
        return named

    def batch(self) -> Batch:
        x_BD = self.draw(self.rows, self.d_in, seed=5)
        target = self.draw(self.rows, self.d_in + 4, seed=7) if self.transcoder else x_BD
        return Batch(x_BD, target)

    def draw(self, *shape: int, seed: int) -> Tensor:
        drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        return (drawn * 2).round() / 2 if self.grid else drawn

    def state(self) -> Tensors:
        return {"variance": torch.tensor(5.0)}

    def context(self) -> Context:
        changes = {"encoder_dtype": self.encoder_dtype, "dead_bound": self.bound}
        return context(F, self.dead, step=20, scheduled={}, **changes)

    def on_device(self, spec: TopKSpec) -> StepOutput:
        params, batch = self.params(), self.batch()
        assert fast.topk_step(spec, params, batch) is on_device.topk
        return FastTopK().gradients(spec, params, self.state(), batch, self.context())

    def written(self, spec: TopKSpec) -> StepOutput:
        """By autograd, in float64."""
        state = {name: value.double() for name, value in self.state().items()}
        batch = Batch(self.batch().x_BD.double(), self.batch().target_BO.double())
        params = {name: value.double() for name, value in self.params().items()}
        return by_autograd(
            lambda leaves: TopK().loss(spec, leaves, state, batch, self.context()), params
        )


def agree(found: StepOutput, written: StepOutput, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest of each gradient; counts equal."""
    assert found.grads.keys() == written.grads.keys()
    for name, expected in written.grads.items():
        error = (found.grads[name] - expected).abs().max()
        assert float(error) <= tolerance * float(expected.abs().max()) + 1e-12, name
    assert found.terms.keys() == written.terms.keys()
    for name, term in written.terms.items():
        assert float(found.terms[name]) == pytest.approx(float(term), rel=tolerance, abs=1e-12), (
            name
        )
    assert float(found.loss) == pytest.approx(float(written.loss), rel=tolerance)
    error = float(written.stats.squared_error)
    assert float(found.stats.squared_error) == pytest.approx(error, rel=tolerance)
    assert torch.equal(found.stats.fired_F, written.stats.fired_F)


@pytest.mark.sample
def test_a_step_has_the_gradients_of_the_loss() -> None:
    spec, case = TopKSpec(k=5, **OFF), Case(d_in=33)
    agree(case.on_device(spec), case.written(spec))


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
    agree(case.on_device(spec), case.written(spec))


@pytest.mark.parametrize("k", [1, F])
def test_one_latent_or_all_of_them(k: int) -> None:
    spec, case = TopKSpec(k=k, k_aux=40), Case(dead=DEAD)
    agree(case.on_device(spec), case.written(spec))


def test_two_steps_are_equal_to_the_bit() -> None:
    spec, case = TopKSpec(k=5, k_aux=6), Case(dead=DEAD)
    one, other = case.on_device(spec), case.on_device(spec)
    assert torch.equal(one.loss, other.loss)
    assert all(torch.equal(value, other.grads[name]) for name, value in one.grads.items())


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["x", "target", "W_enc", "b_enc", "b_dec"])
def test_what_is_not_finite_shows(where: str, bad: float) -> None:
    """In the loss, or in a gradient, which makes the next loss NaN."""
    case, spec = Case(rows=1, transcoder=True), TopKSpec(k=5, **OFF)
    batch, params = case.batch(), case.params()
    {"x": batch.x_BD, "target": batch.target_BO, **params}[where].view(-1)[3] = bad
    output = FastTopK().gradients(spec, params, case.state(), batch, case.context())
    shown = [output.loss, *output.grads.values()]
    assert not all(bool(torch.isfinite(value).all()) for value in shown)


def test_what_the_kernels_do_not_compute_is_left_to_other_forms() -> None:
    case = Case()
    wide = TopKSpec(k=5, k_aux=6, multi_topk_coefficient=1 / 8)
    assert fast.topk_step(wide, case.params(), case.batch()) is fast.topk
    doubled = {name: value.double() for name, value in case.params().items()}
    assert fast.topk_step(TopKSpec(k=5, **OFF), doubled, case.batch()) is fast.topk
