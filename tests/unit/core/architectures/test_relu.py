"""ReLU against the source's loss written as loops, its start and its options."""

from __future__ import annotations

import pytest
import torch
from tests.fakes.training import context
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Control, Dimensions, StepOutput, Tensors
from saeserve.core.architectures.relu import Relu
from saeserve.core.ops.norms import row_norms
from saeserve.core.specs.architectures.relu import ReluSpec

D, F = 5, 12
DIMS = Dimensions(D, D, F)
LAMBDA = 0.7


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def params() -> Tensors:
    return {
        "W_enc": draw(F, D, seed=1),
        "b_enc": 0.3 * draw(F, seed=2),
        "W_dec": draw(F, D, seed=3),
        "b_dec": 0.3 * draw(D, seed=4),
    }


def step(
    spec: ReluSpec, params: Tensors, batch: Batch, control: Control | None = None
) -> StepOutput:
    ctx = context(F, scheduled={"sparsity_coefficient": LAMBDA}, control=control)
    return Relu().gradients(spec, params, {}, batch, ctx)


def written(params: Tensors, x_BD: Tensor, *, weighted: bool) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for x_D in x_BD:
        y_D = params["b_dec"]
        for i in range(F):
            h = params["W_enc"][i] @ x_D + params["b_enc"][i]
            if h > 0:
                y_D = y_D + h * params["W_dec"][i]
                norm = (params["W_dec"][i] @ params["W_dec"][i]).sqrt() if weighted else 1.0
                total = total + LAMBDA * h * norm
        total = total + (x_D - y_D) @ (x_D - y_D)
    return total / len(x_BD)


@pytest.mark.parametrize("unit_norm", [False, True])
def test_loss_and_gradients_are_those_of_the_written_loss(params: Tensors, unit_norm: bool) -> None:
    """Plain L1 has no gradient in the decoder's norms: the constraint holds them."""
    x_BD = draw(9, D, seed=5)
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    loss = written(leaves, x_BD, weighted=not unit_norm)
    expected = torch.autograd.grad(loss, list(leaves.values()))
    output = step(ReluSpec(unit_norm=unit_norm), params, Batch(x_BD, x_BD))
    assert float(output.loss) == pytest.approx(float(loss.detach()), rel=1e-12)
    for name, gradient in zip(leaves, expected, strict=True):
        found = torch.as_tensor(output.grads[name])
        assert float((found - gradient).abs().max() / gradient.abs().max()) <= 1e-8, name


def test_the_penalty_cannot_be_cheated_by_longer_decoder_rows(params: Tensors) -> None:
    """Twice the decoder and half the features: the same function, the same penalty."""
    x_BD = draw(9, D, seed=5)
    batch = Batch(x_BD, x_BD)
    scaled = {**params, "W_dec": 2 * params["W_dec"]}
    scaled |= {name: params[name] / 2 for name in ("W_enc", "b_enc")}
    one, two = (step(ReluSpec(), p, batch) for p in (params, scaled))
    torch.testing.assert_close(one.terms["sparsity"], two.terms["sparsity"])
    torch.testing.assert_close(one.terms["reconstruction"], two.terms["reconstruction"])


def test_a_crosscoder_pays_the_sum_of_its_sources_norms(params: Tensors) -> None:
    x_BD = draw(9, D, seed=5)
    output = step(ReluSpec(), params, Batch(x_BD, x_BD, (2, 3)))
    f_BF = (x_BD @ params["W_enc"].T + params["b_enc"]).relu()
    norms_F = row_norms(params["W_dec"][:, :2]) + row_norms(params["W_dec"][:, 2:])
    torch.testing.assert_close(output.terms["sparsity"], LAMBDA * (f_BF @ norms_F).mean())


def test_a_controller_replaces_the_schedule(params: Tensors) -> None:
    x_BD = draw(9, D, seed=5)
    batch = Batch(x_BD, x_BD)
    spec = ReluSpec(sparsity_coefficient=2 * LAMBDA)
    control = Control(factor=torch.tensor(0.5), l0=torch.tensor(1.0))
    torch.testing.assert_close(
        step(spec, params, batch, control).loss, step(spec, params, batch).loss
    )


def test_the_start_is_the_sources() -> None:
    sample = draw(1, D, seed=6)
    params, state = Relu().initialise(ReluSpec(decoder_norm=0.25), DIMS, sample, sample, seed=1)
    norms_F = row_norms(params["W_dec"])
    torch.testing.assert_close(norms_F, torch.full((F,), 0.25, dtype=torch.float64))
    assert torch.equal(params["W_enc"], params["W_dec"])
    assert not params["b_enc"].any()
    assert not params["b_dec"].any()
    assert state == {}
    other, _state = Relu().initialise(ReluSpec(), DIMS, sample, draw(1, D, seed=7), seed=1)
    assert not torch.equal(other["W_enc"], other["W_dec"])


def test_unit_rows_are_an_option() -> None:
    spec = ReluSpec(unit_norm=True)
    sample = draw(1, D, seed=6)
    params, _state = Relu().initialise(spec, DIMS, sample, sample, seed=1)
    torch.testing.assert_close(row_norms(params["W_dec"]), torch.ones(F, dtype=torch.float64))
    assert Relu().unit_rows(spec) == {"W_dec"}
    assert Relu().unit_rows(ReluSpec()) == frozenset()


def test_the_weight_is_warmed_over_the_first_twentieth() -> None:
    weights = [Relu().scheduled(ReluSpec(), s, 200)["sparsity_coefficient"] for s in range(200)]
    assert weights[0] == 0.0
    assert weights[5] == pytest.approx(2.5)
    assert set(weights[10:]) == {5.0}
    at_once = ReluSpec(sparsity_warmup_fraction=0)
    assert Relu().scheduled(at_once, 0, 200)["sparsity_coefficient"] == 5.0
