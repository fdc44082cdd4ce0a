"""The penalty of crosscoders: activations weighed by the sum of decoder norms by source.

Source: Lindsey et al., Sparse Crosscoders, Anthropic, October 2024: sum_i f_i sum_s |W_dec,i,s|.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.fakes.training import context
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Dimensions, Tensors
from saeserve.core.architectures.gated import Gated
from saeserve.core.architectures.jumprelu.loss import JumpRelu
from saeserve.core.architectures.relu import Relu
from saeserve.core.ops.norms import row_norms, source_norms
from saeserve.core.specs.architectures.gated import GatedSpec
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec
from saeserve.core.specs.architectures.relu import ReluSpec

WIDTHS, F, ROWS = (5, 3, 2), 12, 9
D = sum(WIDTHS)
DIMS = Dimensions(D, D, F, WIDTHS)
CTX = context(F, scheduled={"sparsity_coefficient": 0.7})


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def batch() -> Batch:
    x_BD = draw(ROWS, D, seed=1)
    return Batch(x_BD, x_BD, WIDTHS)


def norm_by_loops(row: list[float]) -> float:
    total, start = 0.0, 0
    for width in WIDTHS:
        total += math.sqrt(sum(value**2 for value in row[start : start + width]))
        start += width
    return total


def listed(tensor: Tensor) -> list[list[float]]:
    return [[float(value) for value in row] for row in tensor]


def relu_params() -> Tensors:
    return {
        "W_enc": draw(F, D, seed=2),
        "b_enc": draw(F, seed=3),
        "W_dec": draw(F, D, seed=4),
        "b_dec": draw(D, seed=5),
    }


def test_the_norms_are_summed_by_source() -> None:
    W = draw(F, D, seed=2)
    expected = [norm_by_loops(row) for row in listed(W)]
    torch.testing.assert_close(source_norms(W, WIDTHS), torch.tensor(expected).double())
    assert torch.equal(source_norms(W, ()), row_norms(W))
    assert torch.equal(source_norms(W, (D,)), row_norms(W))


def test_a_source_that_a_latent_leaves_has_no_nan() -> None:
    W = draw(F, D, seed=2)
    W[:, :5] = 0
    W.requires_grad_()
    (gradient,) = torch.autograd.grad(source_norms(W, WIDTHS).sum(), W)
    assert bool(torch.isfinite(gradient).all())
    assert not gradient[:, :5].any()


@pytest.mark.parametrize("unit_norm", [False, True])
def test_l1_of_relu_is_that_of_the_source(unit_norm: bool) -> None:
    params = relu_params()
    spec = ReluSpec(unit_norm=unit_norm)
    terms = Relu().loss(spec, params, {}, batch(), CTX).terms
    f_BF = (batch().x_BD @ params["W_enc"].T + params["b_enc"]).relu()
    norms = [norm_by_loops(row) for row in listed(params["W_dec"])]
    total = sum(f * n for row in listed(f_BF) for f, n in zip(row, norms, strict=True))
    assert float(terms["sparsity"]) == pytest.approx(0.7 * total / ROWS, rel=1e-12)


def test_tanh_and_pre_act_of_jumprelu_are_weighed_alike() -> None:
    params = relu_params() | {"t": 0.1 * draw(F, seed=6)}
    spec = JumpReluSpec(initial_l0=2.0)
    terms = JumpRelu().loss(spec, params, {}, batch(), CTX).terms
    h_BF = batch().x_BD @ params["W_enc"].T + params["b_enc"]
    norms = [norm_by_loops(row) for row in listed(params["W_dec"])]
    thetas = [math.exp(float(t)) for t in params["t"]]
    sparsity = pre_act = 0.0
    for row in listed(h_BF):
        for h, n, theta in zip(row, norms, thetas, strict=True):
            sparsity += math.tanh(4 * h * n) if h > theta else 0.0
            pre_act += max(theta - h, 0.0) * n
    assert float(terms["sparsity"]) == pytest.approx(0.7 * sparsity / ROWS, rel=1e-12)
    assert float(terms["pre_act"]) == pytest.approx(3e-6 * pre_act / ROWS, rel=1e-12)


def test_the_gate_is_weighed_although_rows_are_unit() -> None:
    params, _ = Gated().initialise(GatedSpec(), DIMS, batch().x_BD, batch().x_BD, seed=1)
    terms = Gated().loss(GatedSpec(), params, {}, batch(), CTX).terms
    open_BF = (batch().x_BD @ params["W_enc"].T).relu()
    norms = [norm_by_loops(row) for row in listed(params["W_dec"])]
    total = sum(f * n for row in listed(open_BF) for f, n in zip(row, norms, strict=True))
    assert float(terms["sparsity"]) == pytest.approx(0.7 * total / ROWS, rel=1e-12)


def test_the_penalty_shrinks_each_source_towards_zero() -> None:
    """The gradient in a latent's rows for one source does not depend on the other sources."""
    params, spec = relu_params(), ReluSpec(sparsity_coefficient=1.0)
    ctx = replace(CTX, scheduled={"sparsity_coefficient": 1.0})
    leaf = params["W_dec"].clone().requires_grad_()
    loss = Relu().loss(spec, params | {"W_dec": leaf}, {}, batch(), ctx).terms["sparsity"]
    (gradient,) = torch.autograd.grad(loss, leaf)
    f_F = (batch().x_BD @ params["W_enc"].T + params["b_enc"]).relu().mean(dim=0)
    start = 0
    for width in WIDTHS:
        part = params["W_dec"][:, start : start + width]
        expected = f_F[:, None] * part / row_norms(part)[:, None]
        torch.testing.assert_close(gradient[:, start : start + width], expected)
        start += width
