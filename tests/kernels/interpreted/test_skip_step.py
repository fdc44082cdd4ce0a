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
from saeserve.core.architectures.skip_on_device import DeviceProducts
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec
from saeserve.core.specs.architectures.topk import TopKSpec

LOW, EXACT = torch.bfloat16, torch.float32
EVERY_KIND = pytest.mark.parametrize("kind", [LOW, EXACT], ids=str)
WIDTHS = (20, 31, device_steps.F)
SPARSE: list[ArchitectureSpec] = [
    TopKSpec(k=5, k_aux=6),
    TopKSpec(k=5, **device_steps.OFF, multi_topk_coefficient=1 / 8),
    BatchTopKSpec(k=3, k_aux=6),
    MatryoshkaSpec(k=3, k_aux=6, widths=WIDTHS),
    MatryoshkaSpec(k=3, **device_steps.OFF, widths=WIDTHS, detach_inner=True),
]


def drawn(d_out: int, d_in: int) -> Tensor:
    return 0.3 * torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(11))


def _both_sides(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.x_BD, batch.target_BO


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


@pytest.mark.sample
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_products_of_float16_parts_are_near_float32s(size: float) -> None:
    """What they make is subtracted. One coordinate dominates, as in real activations."""
    x_BD = size * torch.randn(24, 130, generator=torch.Generator().manual_seed(3))
    x_BD[:, 7] += 300 * size
    products = DeviceProducts(W_OD := drawn(50, 130), x_BD, LOW)
    exact_BO = x_BD.double() @ W_OD.double().T
    error = float((products.explained() - exact_BO).abs().max())
    most = float((x_BD.abs().double() @ W_OD.abs().double().T).max())
    assert error <= 2**-20 * most
    to_target_BO = size * drawn(24, 50)
    expected_OD = -(to_target_BO.double().T @ x_BD.double())
    assert dense_cases.gap(products.gradient(to_target_BO), expected_OD) <= 1e-3


def test_nothing_is_explained_at_the_start_and_nan_is_shown() -> None:
    x_BD = drawn(4, 9)
    assert torch.equal(DeviceProducts(torch.zeros(5, 9), x_BD, LOW).explained(), torch.zeros(4, 5))
    x_BD[2, 3] = torch.nan
    shown_BO = DeviceProducts(drawn(5, 9), x_BD, LOW).explained()
    assert bool(shown_BO[2].isnan().all())


@pytest.mark.parametrize(
    ("spec", "kind"), [*((spec, LOW) for spec in SPARSE), (SPARSE[0], EXACT)], ids=str
)
def test_the_topk_family(spec: ArchitectureSpec, kind: torch.dtype) -> None:
    dead = [] if spec.model_dump()["auxk_coefficient"] == 0 else device_steps.DEAD
    case = device_steps.Case(rows=3, transcoder=True, dead=dead, encoder_dtype=kind)
    assert usable_on_device(*case.params().values(), *_both_sides(case.batch()))
    arguments = (case.params(), case.state(), case.batch())
    inner = device_steps.ARCHITECTURES[spec.name]
    found, written = both(inner, spec, arguments, case.context(spec))
    of_skip = [each.grads.pop(W_SKIP) for each in (found, written)]
    assert dense_cases.gap(*of_skip) <= (1e-3 if kind is LOW else 1e-5)
    # All others are as good as without a skip connection.
    device_steps.agree(found, written, case.tolerance)


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
        spec, rows=8, d_sae=24, d_out=7, dtype=torch.float32, encoder_dtype=kind
    )
    arguments: tuple[Tensors, Tensors, Batch] = (case.params, {}, case.batch)
    found = both(FastJumpRelu(), spec, arguments, case.ctx)
    dense_cases.agree(*found, 1e-3 if kind is LOW else 1e-5)
