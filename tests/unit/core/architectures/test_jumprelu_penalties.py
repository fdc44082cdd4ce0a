"""JumpReLU's penalties on L0 against the paper's formulas as loops, and the peers' mistakes."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from tests.fakes.training import context, features_of
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Control, Dimensions, StepOutput, Tensors
from saeserve.core.architectures.jumprelu.fast import FastJumpRelu
from saeserve.core.architectures.straight_through import jump_relu, step
from saeserve.core.ops.norms import row_norms
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec
from saeserve.errors import SpecError

D, F = 5, 12
DIMS = Dimensions(D, D, F)
LAMBDA, WANTED = 0.7, 3.0
Penalty = Literal["l0", "quadratic"]
PENALTIES = pytest.mark.parametrize("penalty", ["l0", "quadratic"])


def spec_of(penalty: str, **changes: object) -> JumpReluSpec:
    fields: dict[str, object] = {
        "penalty": penalty,
        "sparsity_coefficient": LAMBDA,
        "pre_act_coefficient": 0.05,
        "initial_l0": 4.0,
        "bandwidth": 0.9,
    }
    return JumpReluSpec.model_validate(fields | changes)


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def params() -> Tensors:
    sample = draw(200, D, seed=2)
    made, _state = FastJumpRelu().initialise(spec_of("l0"), DIMS, sample, sample, seed=0)
    spread = torch.linspace(-0.5, 0.3, F, dtype=torch.float64)
    return {**made, "t": made["t"] + spread, "b_dec": made["b_dec"] + 0.1}


def run(spec: JumpReluSpec, params: Tensors, x_BD: Tensor, wanted: float = WANTED) -> StepOutput:
    one = torch.ones((), dtype=torch.float64)
    control = Control(factor=one, l0=wanted * one) if spec.penalty == "quadratic" else None
    weight = {"sparsity_coefficient": spec.sparsity_coefficient}
    ctx = context(F, control=control, scheduled=weight)
    return FastJumpRelu().gradients(spec, params, {}, Batch(x_BD, x_BD), ctx)


def gradient_of_t(spec: JumpReluSpec, p: Tensors, x_BD: Tensor, *, one_sided: bool) -> Tensor:
    """By loops over rows and latents; `one_sided` is the peer's step on features, not on h."""
    rows = len(x_BD)
    h_BF = x_BD @ p["W_enc"].T + p["b_enc"]
    theta_F = p["t"].exp()
    f_BF = torch.where(h_BF > theta_F, h_BF, 0.0)
    l0 = float((f_BF > 0).sum()) / rows
    price = LAMBDA if spec.penalty == "l0" else 2 * LAMBDA * (l0 / WANTED - 1) / WANTED
    total_F = torch.zeros(F, dtype=torch.float64)
    for b in range(rows):
        error_D = x_BD[b] - f_BF[b] @ p["W_dec"] - p["b_dec"]
        for i in range(F):
            theta, h = float(theta_F[i]), float(h_BF[b, i])
            by_theta = 0.0
            if abs(h - theta) < spec.bandwidth / 2:
                by_theta += -theta / spec.bandwidth * float(-2 * error_D @ p["W_dec"][i])
            seen = float(f_BF[b, i]) if one_sided else h
            if abs(seen - theta) < spec.bandwidth / 2:
                by_theta += -price / spec.bandwidth
            if h < theta:
                norm = float(p["W_dec"][i].square().sum().sqrt())
                by_theta += spec.pre_act_coefficient * norm
            total_F[i] += theta * by_theta / rows
    return total_F


@PENALTIES
def test_thresholds_learn_by_the_papers_two_sided_kernel(params: Tensors, penalty: Penalty) -> None:
    """theta gets -theta/eps of the value's gradient and -1/eps of the step's; t theta times it."""
    spec, x_BD = spec_of(penalty), draw(17, D, seed=1)
    found = torch.as_tensor(run(spec, params, x_BD).grads["t"])
    expected = gradient_of_t(spec, params, x_BD, one_sided=False)
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-8
    mistaken = gradient_of_t(spec, params, x_BD, one_sided=True)
    assert float((found - mistaken).abs().max() / expected.abs().max()) > 0.05


@PENALTIES
def test_the_penalty_has_the_papers_value_and_moves_thresholds_alone(
    params: Tensors, penalty: Penalty
) -> None:
    x_BD = draw(17, D, seed=1)
    with_penalty = run(spec_of(penalty), params, x_BD)
    without = run(spec_of(penalty, sparsity_coefficient=0.0), params, x_BD)
    l0 = float(with_penalty.stats.fired_F.sum()) / len(x_BD)
    expected = LAMBDA * l0 if penalty == "l0" else LAMBDA * (l0 / WANTED - 1) ** 2
    assert float(with_penalty.terms["sparsity"]) == pytest.approx(expected)
    for name, gradient in without.grads.items():
        same = torch.equal(torch.as_tensor(gradient), torch.as_tensor(with_penalty.grads[name]))
        assert same == (name != "t"), name


@PENALTIES
def test_other_gradients_are_autograds_with_the_active_set_frozen(
    params: Tensors, penalty: Penalty
) -> None:
    spec, x_BD = spec_of(penalty), draw(17, D, seed=1)
    theta_F = params["t"].exp()
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    leaves = {name: params[name].clone().requires_grad_() for name in names}
    h_BF = x_BD @ leaves["W_enc"].T + leaves["b_enc"]
    f_BF = (h_BF.detach() > theta_F) * h_BF
    error_BD = x_BD - f_BF @ leaves["W_dec"] - leaves["b_dec"]
    pre_act = ((theta_F - h_BF).relu() * row_norms(leaves["W_dec"])).sum()
    loss = (error_BD.square().sum() + spec.pre_act_coefficient * pre_act) / len(x_BD)
    expected = torch.autograd.grad(loss, list(leaves.values()))
    output = run(spec, params, x_BD)
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(output.grads[name]), gradient, msg=name)


def test_the_steps_gradient_is_that_of_a_mean_over_the_band() -> None:
    """d/d theta of the mean of 1[h + u > theta], u ~ U(+-eps/2), by differences of the mean."""
    bandwidth, theta = 0.5, 1.22
    h = torch.linspace(0.5, 2.0, 31, dtype=torch.float64)[:, None]
    a = torch.linspace(-1.0, 2.0, 31, dtype=torch.float64)[:, None]
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * bandwidth - bandwidth / 2

    def averaged(value: float) -> float:
        return float((a * (h + u > value)).sum() / len(u))

    numeric = (averaged(theta + 0.01) - averaged(theta - 0.01)) / 0.02
    t = torch.tensor([math.log(theta)], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad((a * step(h, t, bandwidth)).sum(), t)
    assert float(found) / theta == pytest.approx(numeric, rel=0.02)


def test_the_gradient_of_one_row_goes_with_the_bandwidth_and_not_its_square() -> None:
    """The peer divides by the bandwidth twice: ten times narrower would be a hundred times."""
    h = torch.tensor([[1.001]], dtype=torch.float64)

    def slopes(bandwidth: float) -> tuple[float, float]:
        t = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        (of_step,) = torch.autograd.grad(step(h, t, bandwidth).sum(), t)
        (of_value,) = torch.autograd.grad(jump_relu(h, t, bandwidth, chain=True).sum(), t)
        return float(of_step), float(of_value)

    assert slopes(0.1) == pytest.approx((-10.0, -10.0))
    assert slopes(0.01) == pytest.approx((-100.0, -100.0))


def firing(spec: JumpReluSpec, params: Tensors, x_BD: Tensor) -> Tensor:
    """p_F of the module's text."""
    h_BF = x_BD @ params["W_enc"].T + params["b_enc"]
    f_BF = torch.where(h_BF > params["t"].exp(), h_BF, 0.0)
    if spec.penalty != "tanh":
        return (f_BF > 0).double().mean(0)
    return torch.tanh(spec.tanh_scale * f_BF * row_norms(params["W_dec"])).sum(0) / len(x_BD)


@pytest.mark.parametrize("penalty", ["tanh", "l0"])
def test_frequent_latents_cost_the_square_of_their_frequency(params: Tensors, penalty: str) -> None:
    x_BD = draw(17, D, seed=1)
    spec = spec_of(penalty, frequency_scale=0.01)
    p_F = firing(spec, params, x_BD)
    expected = LAMBDA * float((p_F * (1 + p_F / 0.01)).sum())
    assert float(run(spec, params, x_BD).terms["sparsity"]) == pytest.approx(expected)


def test_frequency_keeps_a_quadratic_penaltys_goal_and_shifts_whom_it_presses(
    params: Tensors,
) -> None:
    """Of latents alike in all but frequency, the price per firing is 1 + 2 p / p0."""
    x_BD = draw(17, D, seed=1)
    plain, scaled = spec_of("quadratic"), spec_of("quadratic", frequency_scale=0.1)
    one, other = (run(spec, params, x_BD) for spec in (plain, scaled))
    torch.testing.assert_close(one.terms["sparsity"], other.terms["sparsity"])
    silent = run(spec_of("quadratic", sparsity_coefficient=0.0), params, x_BD)
    base, found = (torch.as_tensor(o.grads["t"]) for o in (one, other))
    none = torch.as_tensor(silent.grads["t"])
    moved_F = base != none
    p_F = firing(plain, params, x_BD)
    price_F = (1 + 2 * p_F / 0.1) / float((p_F * (1 + p_F / 0.1)).sum() / p_F.sum())
    ratio_F = (found - none)[moved_F] / (base - none)[moved_F]
    torch.testing.assert_close(ratio_F, price_F[moved_F])


@pytest.mark.parametrize("penalty", ["tanh", "l0"])
def test_under_a_controller_every_penalty_is_quadratic_in_its_own_measure(
    params: Tensors, penalty: str
) -> None:
    x_BD = draw(17, D, seed=1)
    control = Control(factor=torch.tensor(2.0), l0=torch.tensor(WANTED))
    spec = spec_of(penalty)
    output = FastJumpRelu().gradients(
        spec, params, {}, Batch(x_BD, x_BD), context(F, control=control)
    )
    total = float(firing(spec, params, x_BD).sum())
    expected = LAMBDA * (2 * total / WANTED - 1) ** 2
    assert float(output.terms["sparsity"]) == pytest.approx(expected)


@pytest.mark.parametrize("penalty", ["l0", "quadratic"])
def test_the_evaluation_form_is_the_training_form(params: Tensors, penalty: str) -> None:
    x_BD = draw(17, D, seed=1)
    form = FastJumpRelu().evaluation_form(spec_of(penalty), params, {})
    fired_F = (features_of(form, x_BD) != 0).sum(0)
    assert torch.equal(fired_F, run(spec_of(penalty), params, x_BD).stats.fired_F)


def test_a_quadratic_penalty_needs_a_target(params: Tensors) -> None:
    x_BD = draw(17, D, seed=1)
    with pytest.raises(SpecError, match=r"train\.target_l0"):
        FastJumpRelu().gradients(
            spec_of("quadratic"),
            params,
            {},
            Batch(x_BD, x_BD),
            context(F, scheduled={"sparsity_coefficient": LAMBDA}),
        )


def test_only_ramps_are_warmed() -> None:
    assert FastJumpRelu().scheduled(spec_of("l0"), 0, 10)["sparsity_coefficient"] == 0.0
    assert FastJumpRelu().scheduled(spec_of("quadratic"), 0, 10)["sparsity_coefficient"] == LAMBDA


def test_unit_rows_are_an_option() -> None:
    sample = draw(200, D, seed=2)
    spec = spec_of("l0", unit_norm=True)
    params, _state = FastJumpRelu().initialise(spec, DIMS, sample, sample, seed=0)
    torch.testing.assert_close(row_norms(params["W_dec"]), torch.ones(F, dtype=torch.float64))
    assert torch.equal(params["W_enc"], params["W_dec"])
    assert FastJumpRelu().unit_rows(spec) == {"W_dec"}
    assert FastJumpRelu().unit_rows(spec_of("l0")) == frozenset()
