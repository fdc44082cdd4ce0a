"""Gated against the paper's loss written out, and the peers' mistake in its auxiliary term."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.fakes.training import context, features_of, reconstruction_of
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Dimensions, StepOutput, Tensors
from saeserve.core.architectures.gated import Gated
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.export.fold import fold
from saeserve.core.formats.model import Lineage
from saeserve.core.ops.norms import row_norms
from saeserve.core.specs.architectures.gated import GatedSpec

D, F = 5, 12
LAMBDA = 0.7
SPEC = GatedSpec()


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def params() -> Tensors:
    return {
        "W_enc": draw(F, D, seed=1),
        "b_gate": 0.3 * draw(F, seed=2),
        "b_mag": 0.5 * draw(F, seed=3),
        "r_mag": 0.3 * draw(F, seed=4),
        "W_dec": draw(F, D, seed=5),
        "b_dec": 0.3 * draw(D, seed=6),
    }


@pytest.fixture
def x_BD() -> Tensor:  # noqa: N802 - the shape suffix is part of the name
    return draw(9, D, seed=7)


def step(params: Tensors, batch: Batch) -> StepOutput:
    ctx = context(F, scheduled={"sparsity_coefficient": LAMBDA})
    return Gated().gradients(SPEC, params, {}, batch, ctx)


def frozen(value: Tensor) -> Tensor:
    return value.detach()


def live(value: Tensor) -> Tensor:
    """The peer's mistake."""
    return value


def written(
    p: Tensors, x_BD: Tensor, decoder: Callable[[Tensor], Tensor], bias: Callable[[Tensor], Tensor]
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for x_D in x_BD:
        y_D, via_gate_D = p["b_dec"], bias(p["b_dec"])
        for i in range(F):
            w_x = p["W_enc"][i] @ (x_D - p["b_dec"])
            gate = w_x + p["b_gate"][i]
            if gate > 0:
                total = total + LAMBDA * gate
                via_gate_D = via_gate_D + gate * decoder(p["W_dec"][i])
                y_D = y_D + (p["r_mag"][i].exp() * w_x + p["b_mag"][i]).relu() * p["W_dec"][i]
        total = total + (x_D - y_D) @ (x_D - y_D) + (x_D - via_gate_D) @ (x_D - via_gate_D)
    return total / len(x_BD)


def gradients_of(loss: Callable[[Tensors], Tensor], params: Tensors) -> tuple[float, Tensors]:
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    value = loss(leaves)
    grads = torch.autograd.grad(value, list(leaves.values()))
    return float(value.detach()), dict(zip(leaves, grads, strict=True))


def test_loss_and_gradients_are_the_papers(params: Tensors, x_BD: Tensor) -> None:
    output = step(params, Batch(x_BD, x_BD))
    loss, grads = gradients_of(lambda p: written(p, x_BD, frozen, frozen), params)
    assert float(output.loss) == pytest.approx(loss, rel=1e-12)
    for name, expected in grads.items():
        found = torch.as_tensor(output.grads[name])
        assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-8, name


@pytest.mark.parametrize(
    ("decoder", "bias", "wrong"), [(live, frozen, "W_dec"), (frozen, live, "b_dec")]
)
def test_a_decoder_that_is_not_detached_gives_other_gradients(
    params: Tensors,
    x_BD: Tensor,
    decoder: Callable[[Tensor], Tensor],
    bias: Callable[[Tensor], Tensor],
    wrong: str,
) -> None:
    """The peer's auxiliary term has the same value and trains the decoder."""
    output = step(params, Batch(x_BD, x_BD))
    loss, grads = gradients_of(lambda p: written(p, x_BD, decoder, bias), params)
    assert float(output.loss) == pytest.approx(loss, rel=1e-12)
    found = torch.as_tensor(output.grads[wrong])
    assert float((found - grads[wrong]).abs().max() / grads[wrong].abs().max()) > 0.05


def test_the_gates_bias_learns_from_the_auxiliary_term_and_l1_alone(
    params: Tensors, x_BD: Tensor
) -> None:
    """The step has no gradient: b_gate's is that of a loss without the main reconstruction."""
    output = step(params, Batch(x_BD, x_BD))

    def without_reconstruction(p: Tensors) -> Tensor:
        gate_BF = (x_BD - p["b_dec"]) @ p["W_enc"].T + p["b_gate"]
        y_BD = gate_BF.relu() @ params["W_dec"] + params["b_dec"]
        return (LAMBDA * gate_BF.relu().sum() + (x_BD - y_BD).square().sum()) / len(x_BD)

    leaf = params["b_gate"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(without_reconstruction({**params, "b_gate": leaf}), leaf)
    torch.testing.assert_close(torch.as_tensor(output.grads["b_gate"]), expected)


def test_it_is_exactly_a_threshold_model(params: Tensors, x_BD: Tensor) -> None:
    form = Gated().evaluation_form(SPEC, params, {})
    w_x_BF = (x_BD - params["b_dec"]) @ params["W_enc"].T
    gate_BF, h_BF = w_x_BF + params["b_gate"], params["r_mag"].exp() * w_x_BF + params["b_mag"]
    open_but_negative = int(((gate_BF > 0) & (h_BF <= 0)).sum())
    closed_but_positive = int(((gate_BF <= 0) & (h_BF > 0)).sum())
    assert open_but_negative > 0
    assert closed_but_positive > 0
    torch.testing.assert_close(features_of(form, x_BD), (gate_BF > 0) * h_BF.relu())
    assert form.threshold_F is not None
    assert float(form.threshold_F.min()) == 0.0


def test_the_export_reconstructs_what_training_did(params: Tensors, x_BD: Tensor) -> None:
    form = Gated().evaluation_form(SPEC, params, {})
    preprocessing = Preprocessing(draw(D, seed=8).float(), 1.7)
    model = fold(form, preprocessing, architecture="gated", source="planted", lineage=Lineage())
    raw_BD = (x_BD / 1.7 + preprocessing.mean_D).float()
    expected_BD = reconstruction_of(form, x_BD) / 1.7 + preprocessing.mean_D
    torch.testing.assert_close(model.reconstruct(raw_BD), expected_BD.float(), rtol=1e-4, atol=1e-4)
    assert model.config.activation.kind == "threshold"


def test_a_transcoder_subtracts_a_bias_of_its_own() -> None:
    x_BD, y_BO = draw(9, D, seed=7), draw(9, D + 1, seed=9)
    params, _state = Gated().initialise(SPEC, Dimensions(D, D + 1, F), x_BD, y_BO, seed=0)
    params = {name: value + 0.1 for name, value in params.items()}
    output = step(params, Batch(x_BD, y_BO))
    form = Gated().evaluation_form(SPEC, params, {})
    error = (reconstruction_of(form, x_BD) - y_BO).square().sum()
    torch.testing.assert_close(error, output.stats.squared_error)
    assert float(torch.as_tensor(output.grads["b_pre"]).abs().max()) > 0


def test_the_start_ties_unit_dictionaries(x_BD: Tensor) -> None:
    params, state = Gated().initialise(SPEC, Dimensions(D, D, F), x_BD, x_BD, seed=0)
    torch.testing.assert_close(row_norms(params["W_dec"]), torch.ones(F, dtype=torch.float64))
    assert torch.equal(params["W_enc"], params["W_dec"])
    assert not any(params[name].any() for name in ("b_gate", "b_mag", "r_mag", "b_dec"))
    assert state == {}
