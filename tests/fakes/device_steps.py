"""Steps of the TopK family by a GPU's kernels, and by autograd of the loss as written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from tests.fakes.training import context
from torch import Tensor

from saeserve.core.architectures.base import Architecture, by_autograd
from saeserve.core.architectures.contract import Batch, Context, StepOutput, Tensors
from saeserve.core.architectures.topk import fast, on_device
from saeserve.core.architectures.topk.fast import FastBatchTopK, FastMatryoshka, FastTopK
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.specs.architectures.topk import TopKSpec

F = 42
EXACT, LOW = 1e-5, 1e-3
"""Tolerances of float32 and of float16."""
DEAD = list(range(3, F, 4))
OFF: dict[str, Any] = {"k_aux": 6, "auxk_coefficient": 0.0}
ARCHITECTURES: dict[str, Architecture[Any]] = {
    "topk": FastTopK(),
    "batchtopk": FastBatchTopK(),
    "matryoshka": FastMatryoshka(),
}


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
    latents: int = F

    @property
    def tolerance(self) -> float:
        """How far a step's gradients may lie from those in float64."""
        return EXACT if self.encoder_dtype == torch.float32 else LOW

    def params(self) -> Tensors:
        """Parameters of any of the architectures."""
        d_out = self.d_in + 4 if self.transcoder else self.d_in
        named = {
            "W_enc": self.draw(self.latents, self.d_in, seed=1),
            "b_enc": 0.25 * self.draw(self.latents, seed=2) + self.shift,
            "W_dec": self.draw(self.latents, d_out, seed=3),
            "b_dec": 0.25 * self.draw(d_out, seed=4),
        }
        if self.transcoder:
            named["b_pre"] = 0.25 * self.draw(self.d_in, seed=6)
        half = self.latents // 2
        if self.grid:
            named["W_enc"][half:] = named["W_enc"][:half]
            named["b_enc"][half:] = named["b_enc"][:half]
        if self.hot:
            named["b_enc"][17] = 100.0
        return named

    def batch(self) -> Batch:
        """Rows, and other targets for a transcoder."""
        x_BD = self.draw(self.rows, self.d_in, seed=5)
        target = self.draw(self.rows, self.d_in + 4, seed=7) if self.transcoder else x_BD
        return Batch(x_BD, target)

    def draw(self, *shape: int, seed: int) -> Tensor:
        """Numbers that depend on the seed alone."""
        drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        return (drawn * 2).round() / 2 if self.grid else drawn

    def state(self) -> Tensors:
        """State of any of the architectures."""
        threshold = torch.tensor(0.25, dtype=torch.float64)
        frequency_F = torch.full((self.latents,), 0.1)
        return {
            "variance": torch.tensor(5.0),
            "threshold": threshold,
            "frequency": frequency_F,
        }

    def context(self, spec: ArchitectureSpec) -> Context:
        """The context of step 20 of 50."""
        architecture: Any = ARCHITECTURES[spec.name]
        scheduled = architecture.scheduled(spec, 20, 50)
        changes = {"encoder_dtype": self.encoder_dtype, "dead_bound": self.bound}
        return context(self.latents, self.dead, step=20, scheduled=scheduled, **changes)

    def on_device(self, spec: Any) -> StepOutput:  # noqa: ANN401 - of any architecture
        """By the kernels."""
        params, batch = self.params(), self.batch()
        if isinstance(spec, TopKSpec):
            assert fast.topk_step(spec, params, batch) is on_device.topk
        else:
            assert fast.nested_step(spec, params, batch) is on_device.nested
        architecture = ARCHITECTURES[spec.name]
        return architecture.gradients(spec, params, self.state(), batch, self.context(spec))

    def written(self, spec: Any) -> StepOutput:  # noqa: ANN401 - of any architecture
        """By autograd, in float64."""
        state = {name: value.double() for name, value in self.state().items()}
        batch = Batch(self.batch().x_BD.double(), self.batch().target_BO.double())
        params = {name: value.double() for name, value in self.params().items()}
        loss, ctx = ARCHITECTURES[spec.name].loss, self.context(spec)
        return by_autograd(lambda leaves: loss(spec, leaves, state, batch, ctx), params)

    def of_float32(self) -> Case:
        """The same with an exact encoder."""
        return replace(self, encoder_dtype=torch.float32)


def _norm(numbers: Tensor, order: float) -> float:
    linalg: Any = torch.linalg
    return float(linalg.vector_norm(numbers, ord=order))


def agree(found: StepOutput, written: StepOutput, tolerance: float) -> None:
    """Within `tolerance` of the largest of each gradient, of its norm where numbers were rounded to
    float16; counts equal."""
    assert found.grads.keys() == written.grads.keys()
    order = math.inf if tolerance < LOW else 2
    for name, expected in written.grads.items():
        error, size = (_norm(each, order) for each in (found.grads[name] - expected, expected))
        assert error <= tolerance * size + 1e-12, name
    assert found.terms.keys() == written.terms.keys()
    for name, term in written.terms.items():
        assert float(found.terms[name]) == pytest.approx(float(term), rel=tolerance, abs=1e-12), (
            name
        )
    assert float(found.loss) == pytest.approx(float(written.loss), rel=tolerance)
    error = float(written.stats.squared_error)
    assert float(found.stats.squared_error) == pytest.approx(error, rel=tolerance)
    assert torch.equal(found.stats.fired_F, written.stats.fired_F)
    assert found.state.keys() == written.state.keys()
    for name, value in written.state.items():
        torch.testing.assert_close(found.state[name].double(), value, rtol=tolerance, atol=1e-6)


def not_finite(case: Case, spec: Any, where: str, bad: float) -> bool:  # noqa: ANN401 - of any architecture
    """Whether a number that is not finite shows in the loss, or in a gradient, which makes the next
    loss NaN."""
    batch, params = case.batch(), case.params()
    {"x": batch.x_BD, "target": batch.target_BO, **params}[where].view(-1)[3] = bad
    architecture = ARCHITECTURES[spec.name]
    output = architecture.gradients(spec, params, case.state(), batch, case.context(spec))
    shown = [output.loss, *output.grads.values()]
    return not all(bool(torch.isfinite(value).all()) for value in shown)


def equal_to_the_bit(one: StepOutput, other: StepOutput) -> bool:
    """Whether two steps are the same."""
    if not torch.equal(one.loss, other.loss):
        return False
    return all(torch.equal(value, other.grads[name]) for name, value in one.grads.items())
