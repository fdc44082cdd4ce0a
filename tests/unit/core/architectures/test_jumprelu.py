"""JumpReLU's gradients against the source's formulas written as loops, and its initialisation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Context, Dimensions, StepOutput, Tensors
from saeserve.core.architectures.jumprelu.fast import FastJumpRelu
from saeserve.core.architectures.straight_through import jump_relu, linear
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec

DIMS = Dimensions(d_in=5, d_out=5, d_sae=12)
SPEC = JumpReluSpec(initial_l0=4.0, sparsity_coefficient=0.7, pre_act_coefficient=0.05)
ARCHITECTURE = FastJumpRelu()


class _OneRank:
    def all_reduce_sum(self, value: Tensor) -> Tensor:
        return value


def _context(spec: JumpReluSpec, dtype: torch.dtype = torch.float32) -> Context:
    return Context(
        step=3,
        steps=10,
        scheduled={"sparsity_coefficient": spec.sparsity_coefficient},
        dead_F=torch.zeros(DIMS.d_sae, dtype=torch.bool),
        seed=0,
        collective=_OneRank(),
        encoder_dtype=dtype,
    )


def _rows(count: int, seed: int = 1) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, DIMS.d_in, generator=draws, dtype=torch.float64)


def _params(spec: JumpReluSpec = SPEC) -> Tensors:
    sample = _rows(200, seed=2)
    params, _state = ARCHITECTURE.initialise(spec, DIMS, sample, sample, seed=0)
    spread = torch.linspace(-0.3, 0.3, DIMS.d_sae, dtype=torch.float64)
    return {**params, "t": params["t"] + spread, "b_dec": params["b_dec"] + 0.1}


def _step(spec: JumpReluSpec, params: Tensors, x: Tensor) -> StepOutput:
    return ARCHITECTURE.gradients(spec, params, {}, Batch(x, x), _context(spec))


def _by_loops(spec: JumpReluSpec, p: Tensors, x: Tensor) -> tuple[float, Tensors]:
    """The source's loss and derivatives, one row and one latent at a time."""
    grads = {name: torch.zeros_like(value) for name, value in p.items()}
    total = 0.0
    rows, lam_s, lam_p = len(x), spec.sparsity_coefficient, spec.pre_act_coefficient
    for row in x:
        h = [float(p["W_enc"][i] @ row + p["b_enc"][i]) for i in range(DIMS.d_sae)]
        theta = [math.exp(float(t)) for t in p["t"]]
        f = [a if a > b else 0.0 for a, b in zip(h, theta, strict=True)]
        error = row - sum(f[i] * p["W_dec"][i] for i in range(DIMS.d_sae)) - p["b_dec"]
        total += float(error @ error)
        grads["b_dec"] -= 2 * error / rows
        for i in range(DIMS.d_sae):
            w, n = p["W_dec"][i], float(p["W_dec"][i].square().sum().sqrt())
            total += lam_s * math.tanh(spec.tanh_scale * f[i] * n)
            slope = lam_s * (1 - math.tanh(spec.tanh_scale * f[i] * n) ** 2) * spec.tanh_scale
            to_f = float(-2 * error @ w) + slope * n
            below = max(theta[i] - (f[i] if spec.literal_pre_act else h[i]), 0.0)
            if spec.literal_pre_act and below > 0:
                to_f -= lam_p * n
            in_band = abs(h[i] - theta[i]) < spec.bandwidth / 2
            to_h = to_f if h[i] > theta[i] else 0.0
            if spec.ste_to_input and in_band:
                to_h += to_f * theta[i] / spec.bandwidth
            if in_band:
                grads["t"][i] += -theta[i] / spec.bandwidth * to_f / rows
            total += lam_p * below * n
            if below > 0:
                grads["t"][i] += lam_p * n * theta[i] / rows
                if not spec.literal_pre_act:
                    to_h -= lam_p * n
            grads["W_enc"][i] += to_h * row / rows
            grads["b_enc"][i] += to_h / rows
            grads["W_dec"][i] += (-2 * f[i] * error + (slope * f[i] + lam_p * below) * w / n) / rows
    return total / rows, grads


@pytest.mark.parametrize("ste_to_input", [False, True])
@pytest.mark.parametrize("literal", [False, True])
def test_gradients_are_the_sources_formulas(ste_to_input: bool, literal: bool) -> None:
    spec = SPEC.model_copy(update={"ste_to_input": ste_to_input, "literal_pre_act": literal})
    params, x = _params(), _rows(17)
    step = _step(spec, params, x)
    loss, grads = _by_loops(spec, params, x)
    assert float(step.loss) == pytest.approx(loss, rel=1e-12)
    for name, expected in grads.items():
        got = step.grads[name]
        assert isinstance(got, Tensor)
        assert float((got - expected).abs().max() / expected.abs().max()) <= 1e-8, name


def test_the_gradient_of_t_is_that_of_a_loss_averaged_over_the_band() -> None:
    """The source's d/dt equals the derivative by theta of sum a f(h + u), u ~ U(+-bandwidth/2)."""
    bandwidth, t = 0.5, torch.tensor([0.2], dtype=torch.float64)
    h = torch.linspace(0.5, 2.0, 31, dtype=torch.float64)[:, None]
    a = torch.linspace(-1.0, 2.0, 31, dtype=torch.float64)[:, None]
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * bandwidth - bandwidth / 2

    def averaged(theta: float) -> float:
        jittered = h + u
        return float((a * torch.where(jittered > theta, jittered, 0.0)).sum() / len(u))

    theta, delta = math.exp(0.2), 1e-3
    expected = (averaged(theta + delta) - averaged(theta - delta)) / (2 * delta)
    leaf = t.requires_grad_()
    (got,) = torch.autograd.grad((a * jump_relu(h, leaf, bandwidth, to_input=False)).sum(), leaf)
    assert float(got) == pytest.approx(expected, rel=1e-3)


def test_silent_latents_in_the_band_move_their_threshold() -> None:
    """|f| has derivative 1 at 0: the penalty raises t of a latent just below its threshold."""
    spec = SPEC.model_copy(update={"pre_act_coefficient": 0.0})
    params = _params()
    params["W_enc"] = torch.zeros_like(params["W_enc"])
    params["b_enc"] = params["t"].exp() - 0.5
    step = _step(spec, params, torch.zeros(3, DIMS.d_in, dtype=torch.float64))
    moved = step.grads["t"]
    assert isinstance(moved, Tensor)
    norms, theta = params["W_dec"].square().sum(1).sqrt(), params["t"].exp()
    error = -params["b_dec"]
    expected = -theta / 2 * (0.7 * 4 * norms - 2 * params["W_dec"] @ error)
    assert torch.allclose(moved, expected)


def test_each_latent_fires_on_its_share_of_the_sample() -> None:
    sample = _rows(1200, seed=5)
    params, _state = ARCHITECTURE.initialise(SPEC, DIMS, sample, sample, seed=0)
    fires = sample @ params["W_enc"].T + params["b_enc"] > params["t"].exp()
    assert torch.all(fires.sum(0) == 400)
    assert float(fires.sum(1).double().mean()) == pytest.approx(4.0)


def test_initial_weights_are_the_sources() -> None:
    dims = Dimensions(d_in=64, d_out=64, d_sae=256)
    sample = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    params, _state = ARCHITECTURE.initialise(SPEC, dims, sample, sample, seed=0)
    assert float(params["W_dec"].abs().max()) <= 1 / 8
    assert float(params["W_dec"].std()) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.02)
    assert torch.allclose(params["W_enc"], params["W_dec"] / 4)
    assert torch.all(params["t"] == SPEC.initial_log_threshold)
    assert torch.all(params["b_dec"] == 0)


def test_a_transcoders_encoder_is_drawn_apart() -> None:
    sample, target = _rows(100, seed=1), _rows(100, seed=2)
    params, _state = ARCHITECTURE.initialise(SPEC, DIMS, sample, target, seed=0)
    assert not torch.allclose(params["W_enc"], params["W_dec"] * 5 / 12)
    assert float(params["W_enc"].abs().max()) <= 1 / math.sqrt(12)


def test_the_penalty_ramps_over_the_whole_run() -> None:
    weights = [ARCHITECTURE.scheduled(SPEC, s, 11)["sparsity_coefficient"] for s in range(11)]
    assert weights[0] == 0.0
    assert weights[-1] == SPEC.sparsity_coefficient
    assert weights[5] == pytest.approx(SPEC.sparsity_coefficient / 2)


def test_low_precision_stays_close_and_keeps_the_masters_type() -> None:
    x, W, b = _rows(32).float(), torch.randn(12, 5), torch.randn(12)
    leaf = W.clone().requires_grad_()
    low = linear(x, leaf, b, torch.bfloat16).detach()
    exact = linear(x, W, b, torch.float32)
    assert low.dtype == torch.float32
    assert float((low - exact).abs().max()) <= 0.03 * float(exact.abs().max())
    (grad,) = torch.autograd.grad(linear(x, leaf, b, torch.bfloat16).square().sum(), leaf)
    (wanted,) = torch.autograd.grad(linear(x, leaf, b, torch.float32).square().sum(), leaf)
    assert grad.dtype == torch.float32
    assert float((grad - wanted).abs().max()) <= 0.03 * float(wanted.abs().max())


def test_auxk_rebuilds_the_residual_from_dead_latents_alone() -> None:
    """Peers let negative pre-activations through, and pull latents that are alive along."""
    with_auxk = SPEC.model_copy(update={"auxk_coefficient": 0.5, "k_aux": 2})
    params, x = _params(), _rows(17)
    params["b_enc"] = params["b_enc"] - 1.0
    dead_F = torch.zeros(DIMS.d_sae, dtype=torch.bool)
    dead_F[[1, 4, 7]] = True
    context = replace(_context(SPEC), dead_F=dead_F)
    on, off = (
        ARCHITECTURE.gradients(spec, params, {}, Batch(x, x), context) for spec in (with_auxk, SPEC)
    )
    h_BF = x @ params["W_enc"].T + params["b_enc"]
    f_BF = torch.where(h_BF > params["t"].exp(), h_BF, 0.0)
    residual_BD = x - f_BF @ params["W_dec"] - params["b_dec"]
    top = h_BF[:, dead_F].topk(2, dim=1)
    rebuilt_BD = torch.einsum("bk,bkd->bd", top.values.relu(), params["W_dec"][dead_F][top.indices])
    assert float((top.values < 0).double().mean()) > 0
    spread = (residual_BD - residual_BD.mean(0)).square().sum()
    expected = 0.5 * (residual_BD - rebuilt_BD).square().sum() / spread
    torch.testing.assert_close(on.terms["auxk"], expected, rtol=1e-10, atol=0)
    assert "auxk" not in off.terms
    for name in ("W_enc", "b_enc", "W_dec"):
        change = torch.as_tensor(on.grads[name]) - torch.as_tensor(off.grads[name])
        per_latent_F = change.abs().reshape(DIMS.d_sae, -1).amax(1)
        assert float(per_latent_F[dead_F].max()) > 0, name
        assert float(per_latent_F[~dead_F].max()) == 0, name
