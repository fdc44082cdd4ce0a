"""Micro-batches for ReLU and gated SAEs, and how close a step on them is to autograd's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tests.fakes.training import context
from torch import Tensor

from saeserve.core.architectures.base import Architecture, by_autograd
from saeserve.core.architectures.contract import Batch, Context, StepOutput, Tensors
from saeserve.core.architectures.dense_fast import FastGated, FastRelu
from saeserve.core.specs.architectures.gated import GatedSpec
from saeserve.core.specs.architectures.relu import ReluSpec

ARCHITECTURES: dict[str, Architecture[Any]] = {"relu": FastRelu(), "gated": FastGated()}
SPECS: dict[str, Any] = {"relu": ReluSpec, "gated": GatedSpec}
VECTORS = {"relu": ("b_enc",), "gated": ("b_gate", "b_mag", "r_mag")}


@dataclass(frozen=True)
class Case:
    """A step's arguments. On a grid arithmetic is exact, so that levels are met exactly."""

    name: str
    d_in: int = 10
    d_out: int = 10
    d_sae: int = 24
    rows: int = 8
    shift: float = 0.0
    size: float = 1.0
    grid: bool = False
    widths: tuple[int, ...] = ()
    encoder_dtype: torch.dtype = torch.bfloat16
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def draw(self, *shape: int, seed: int) -> Tensor:
        drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        return (drawn * 2).round() / 2 if self.grid else drawn

    def params(self) -> Tensors:
        """As in the loss; a transcoder's gate has a bias of its own in the input."""
        found = {
            "W_enc": self.draw(self.d_sae, self.d_in, seed=1),
            "W_dec": self.draw(self.d_sae, self.d_out, seed=2),
            "b_dec": 0.5 * self.size * self.draw(self.d_out, seed=3),
        }
        for index, vector in enumerate(VECTORS[self.name]):
            found[vector] = 0.5 * self.draw(self.d_sae, seed=4 + index)
        if self.name == "gated":
            found["r_mag"] = 0.0 * found["r_mag"] if self.grid else found["r_mag"]
            if self.d_in != self.d_out:
                found["b_pre"] = 0.5 * self.size * self.draw(self.d_in, seed=8)
        for vector in ("b_enc", "b_gate", "b_mag"):
            if vector in found:
                found[vector] = self.size * (found[vector] + self.shift)
        return found

    def batch(self) -> Batch:
        x_BD = self.size * self.draw(self.rows, self.d_in, seed=9)
        if self.d_in == self.d_out:
            return Batch(x_BD, x_BD, self.widths)
        return Batch(x_BD, self.size * self.draw(self.rows, self.d_out, seed=10), self.widths)

    def spec(self) -> Any:  # noqa: ANN401 - either spec
        return SPECS[self.name].model_validate({"sparsity_coefficient": 0.7, **self.options})

    def context(self, **changes: Any) -> Context:  # noqa: ANN401 - any field of Context
        scheduled = {"sparsity_coefficient": 0.7 * self.size}
        return context(self.d_sae, scheduled=scheduled, encoder_dtype=self.encoder_dtype, **changes)

    def fast(self, params: Tensors | None = None, **changes: object) -> StepOutput:
        params = self.params() if params is None else params
        ctx = self.context(**changes)
        return ARCHITECTURES[self.name].gradients(self.spec(), params, {}, self.batch(), ctx)

    def plain(self, params: Tensors | None = None, **changes: object) -> StepOutput:
        """By autograd of the loss, in float64."""
        params = self.params() if params is None else params
        batch = self.batch()
        wide = Batch(batch.x_BD.double(), batch.target_BO.double(), self.widths)
        ctx = replace(self.context(**changes), encoder_dtype=torch.float64)
        loss = ARCHITECTURES[self.name].loss
        doubled = {name: value.double() for name, value in params.items()}
        return by_autograd(lambda leaves: loss(self.spec(), leaves, {}, wide, ctx), doubled)


def gap(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected, or alone where that is 0."""
    norm = length(expected.double())
    return length(found.double() - expected.double()) / (norm or 1.0)


def length(tensor: Tensor) -> float:
    return float(tensor.square().sum().sqrt())


def agree(found: StepOutput, expected: StepOutput, limit: float) -> None:
    """Gradients and terms within `limit`; active latents the same."""
    assert torch.equal(found.stats.fired_F, expected.stats.fired_F)
    assert found.grads.keys() == expected.grads.keys()
    assert found.terms.keys() == expected.terms.keys()
    pairs = {**expected.grads, **expected.terms, "loss": expected.loss}
    made = {**found.grads, **found.terms, "loss": found.loss}
    pairs["squared_error"] = expected.stats.squared_error
    made["squared_error"] = found.stats.squared_error
    for name, wanted in pairs.items():
        assert made[name].shape == wanted.shape, name
        assert made[name].is_contiguous(), name
        assert gap(made[name], wanted) <= limit, name
