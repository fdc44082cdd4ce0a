"""Skip transcoders' steps in Triton against autograd of their losses, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fakes import dense_cases, device_steps, jumprelu_cases
from torch import Tensor

from saeserve.core.architectures.base import Architecture, by_autograd
from saeserve.core.architectures.contract import Batch, Context, StepOutput, Tensors
from saeserve.core.architectures.jumprelu.fast import FastJumpRelu
from saeserve.core.architectures.skip import W_SKIP, WithSkip
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec
from saeserve.core.specs.architectures.topk import TopKSpec

LOW, EXACT = torch.bfloat16, torch.float32
EVERY_KIND = pytest.mark.parametrize("kind", [LOW, EXACT], ids=str)
WIDTHS = (20, 40, device_steps.F)
SPARSE: list[ArchitectureSpec] = [
    TopKSpec(k=5, k_aux=6),
    TopKSpec(k=5, **device_steps.OFF, multi_topk_coefficient=1 / 8),
    BatchTopKSpec(k=3, k_aux=6),
    MatryoshkaSpec(k=3, k_aux=6, widths=WIDTHS),
    MatryoshkaSpec(k=3, **device_steps.OFF, widths=WIDTHS, detach_inner=True),
]


def drawn(d_out: int, d_in: int) -> Tensor:
    return 0.3 * torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(11))


def both(
    inner: Architecture[Any],
    spec: ArchitectureSpec,
    arguments: tuple[Tensors, Tensors, Batch],
    ctx: Context,
) -> tuple[StepOutput, StepOutput]:
    """By the kernels, and by autograd of the loss of the whole."""
    params, state, batch = arguments
    params = {**params, W_SKIP: drawn(batch.target_BO.shape[1], batch.x_BD.shape[1])}
    whole = WithSkip(inner)
    found = whole.gradients(spec, params, state, batch, ctx)
    wide = Batch(batch.x_BD.double(), batch.target_BO.double())
    doubled, held = ({n: v.double() for n, v in group.items()} for group in (params, state))
    exact = replace(ctx, encoder_dtype=torch.float64)
    return found, by_autograd(lambda leaves: whole.loss(spec, leaves, held, wide, exact), doubled)


@EVERY_KIND
@pytest.mark.parametrize("spec", SPARSE, ids=str)
def test_the_topk_family(spec: ArchitectureSpec, kind: torch.dtype) -> None:
    dead = [] if spec.model_dump()["auxk_coefficient"] == 0 else device_steps.DEAD
    case = device_steps.Case(rows=4, transcoder=True, dead=dead, encoder_dtype=kind)
    case.on_device(spec)  # asserts that the kernels compute it
    arguments = (case.params(), case.state(), case.batch())
    inner = device_steps.ARCHITECTURES[spec.name]
    device_steps.agree(*both(inner, spec, arguments, case.context(spec)), 2e-5)


@pytest.mark.sample
@pytest.mark.parametrize("name", ["relu", "gated"])
def test_dense_architectures(name: str) -> None:
    case = dense_cases.Case(name, d_out=7)
    arguments: tuple[Tensors, Tensors, Batch] = (case.params(), {}, case.batch())
    inner = dense_cases.ARCHITECTURES[name]
    dense_cases.agree(*both(inner, case.spec(), arguments, case.context()), 1e-3)


@EVERY_KIND
@pytest.mark.parametrize("options", [{}, {"penalty": "l0", "bandwidth": 0.6}], ids=str)
def test_jumprelu(options: dict[str, Any], kind: torch.dtype) -> None:
    spec = jumprelu_cases.spec_of(**options)
    case = jumprelu_cases.Case.draw(
        spec, rows=8, d_sae=40, d_out=7, dtype=torch.float32, encoder_dtype=kind
    )
    arguments: tuple[Tensors, Tensors, Batch] = (case.params, {}, case.batch)
    found = both(FastJumpRelu(), spec, arguments, case.ctx)
    dense_cases.agree(*found, 1e-3 if kind is LOW else 1e-5)
