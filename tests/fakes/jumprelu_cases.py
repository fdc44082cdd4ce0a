"""Micro-batches for JumpReLU, and the ways that its fast gradients can go through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from tests.fakes.training import context
from torch import Tensor

from saeserve.core.architectures.base import by_autograd
from saeserve.core.architectures.contract import Batch, Context, Control, StepOutput, Tensors
from saeserve.core.architectures.jumprelu.fast import FastJumpRelu
from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.jumprelu import choose_pass
from saeserve.core.kernels.jumprelu.dense_pass import Dense
from saeserve.core.kernels.jumprelu.entry_lists import ByRow, Interval, list_outside
from saeserve.core.kernels.jumprelu.passes import Pass
from saeserve.core.kernels.jumprelu.sparse_pass import Listed, ListedWithBand
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec

Way = Callable[..., Pass]


def _all_outside(encoder: Encoder, interval: Interval) -> ByRow:
    entries = list_outside(encoder, interval, most=2.0)
    assert entries is not None
    return entries


def in_band(encoder: Encoder, threshold_F: Tensor, half: float, *, band_to_input: bool) -> Pass:
    entries = _all_outside(encoder, choose_pass.in_band(threshold_F, half))
    return Listed(entries, encoder.x_BD)


def below_band(encoder: Encoder, threshold_F: Tensor, half: float, *, band_to_input: bool) -> Pass:
    entries = _all_outside(encoder, choose_pass.below_band(threshold_F, half))
    return Listed(entries, encoder.x_BD)


def with_band(encoder: Encoder, threshold_F: Tensor, half: float, *, band_to_input: bool) -> Pass:
    if band_to_input:
        return dense(encoder, threshold_F, half, band_to_input=True)
    return ListedWithBand(_all_outside(encoder, choose_pass.silent(threshold_F)), encoder)


def dense(encoder: Encoder, threshold_F: Tensor, half: float, *, band_to_input: bool) -> Pass:
    return Dense(encoder)


WAYS: dict[str, Way] = {
    "in band": in_band,
    "below band": below_band,
    "with band": with_band,
    "dense": dense,
    "chosen": choose_pass.choose,
}


@dataclass(frozen=True)
class Case:
    """One micro-batch with a spec."""

    spec: JumpReluSpec
    params: Tensors
    batch: Batch
    ctx: Context

    @classmethod
    def draw(
        cls,
        spec: JumpReluSpec,
        *,
        rows: int = 71,
        d_in: int = 10,
        d_out: int = 10,
        d_sae: int = 90,
        widths: tuple[int, ...] = (),
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        bias: float = 0.0,
        dead: list[int] | None = None,
        **changes: object,
    ) -> Case:
        """A fifth of the latents fire, more with `bias`; a transcoder where d_out differs."""
        draws = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draws, dtype=torch.float64).to(dtype)

        params = {
            "W_enc": 0.25 * normal(d_sae, d_in),
            "b_enc": 0.3 * normal(d_sae) + 0.3 + bias,
            "t": 0.2 * normal(d_sae),
            "W_dec": 0.2 * normal(d_sae, d_out),
            "b_dec": 0.1 * normal(d_out),
        }
        x_BD = normal(rows, d_in)
        batch = Batch(x_BD, x_BD if d_in == d_out else normal(rows, d_out), widths)
        ctx = context(d_sae, dead, scheduled={"sparsity_coefficient": 0.7}, **changes)
        return cls(spec, params, batch, ctx)

    def fast(self) -> StepOutput:
        return FastJumpRelu().gradients(self.spec, self.params, {}, self.batch, self.ctx)

    def plain(self) -> StepOutput:
        """Autograd of the loss with every product in the parameters' type."""
        ctx = replace(self.ctx, encoder_dtype=torch.float32)
        return by_autograd(
            lambda leaves: FastJumpRelu().loss(self.spec, leaves, {}, self.batch, ctx), self.params
        )


def spec_of(**changes: object) -> JumpReluSpec:
    fields: dict[str, object] = {
        "initial_l0": 4.0,
        "sparsity_coefficient": 0.7,
        "pre_act_coefficient": 0.05,
    }
    return JumpReluSpec.model_validate(fields | changes)


def controlled(l0: float = 5.0) -> Control:
    return Control(torch.tensor(1.3, dtype=torch.float64), torch.tensor(l0, dtype=torch.float64))


def worst_error(found: StepOutput, expected: StepOutput) -> float:
    """The largest max|difference| / max|expected| of a gradient or term; gradients that are zero
    must be so."""
    errors: list[float] = []
    for name, wanted in (expected.grads | expected.terms).items():
        got = (found.grads | found.terms)[name]
        assert isinstance(wanted, Tensor)
        assert isinstance(got, Tensor)
        assert got.dtype == wanted.dtype, name
        scale = float(wanted.abs().max())
        difference = float((got - wanted).abs().max())
        errors.append(difference / scale if scale else difference)
    return max(errors)
