"""The whole step of JumpReLU in Triton against autograd of its loss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fakes.dense_cases import agree
from tests.fakes.jumprelu_cases import Case, controlled, spec_of
from torch import Tensor

from saeserve.core.architectures.base import by_autograd
from saeserve.core.architectures.contract import Batch, Control, StepOutput
from saeserve.core.architectures.jumprelu.loss import JumpRelu
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.gpu_dense import choice as dense_choice
from saeserve.core.gpu_dense import jumprelu as dense_jumprelu
from saeserve.core.gpu_dense import jumprelu_fire as dense_jumprelu_fire
from saeserve.core.gpu_dense.rows import scaled, weights
from saeserve.core.ops.norms import renormalise_rows_

OPTIONS: dict[str, dict[str, Any]] = {
    "tanh": {},
    "tanh, narrow band": {"bandwidth": 0.4},
    "tanh, very narrow band": {"bandwidth": 1e-6},
    "tanh, frequency": {"frequency_scale": 0.1},
    "l0": {"penalty": "l0", "bandwidth": 0.6},
    "l0, frequency": {"penalty": "l0", "frequency_scale": 0.1},
    "slope to input": {"ste_to_input": True},
    "l0, slope to input": {"ste_to_input": True, "penalty": "l0", "bandwidth": 0.6},
    "literal": {"literal_pre_act": True},
    "literal, slope to input": {"literal_pre_act": True, "ste_to_input": True},
    "l0, literal": {"literal_pre_act": True, "penalty": "l0"},
    "no pre-act loss": {"pre_act_coefficient": 0.0},
    "no penalty": {"sparsity_coefficient": 0.0},
}
LOW, EXACT = torch.bfloat16, torch.float32
LIMITS = {LOW: 1e-3, EXACT: 1e-5}
EVERY_OPTION = pytest.mark.parametrize("option", sorted(OPTIONS))
EVERY_KIND = pytest.mark.parametrize("kind", [LOW, EXACT], ids=str)


def drawn(kind: torch.dtype = LOW, **changes: Any) -> Case:  # noqa: ANN401 - any argument of draw
    options = changes.pop("options", {})
    rows: dict[str, Any] = {"rows": 8, "d_sae": 24, "dtype": torch.float32, "encoder_dtype": kind}
    return Case.draw(spec_of(**options), **(rows | changes))


def plain(case: Case) -> StepOutput:
    """By autograd of the loss, in float64."""
    wide = Batch(case.batch.x_BD.double(), case.batch.target_BO.double(), case.batch.target_widths)
    doubled = {name: value.double() for name, value in case.params.items()}
    ctx = replace(case.ctx, encoder_dtype=torch.float64)
    return by_autograd(lambda leaves: JumpRelu().loss(case.spec, leaves, {}, wide, ctx), doubled)


def assert_equal_to_autograd(case: Case) -> None:
    assert usable_on_device(*case.params.values(), case.batch.x_BD, case.batch.target_BO)
    agree(case.fast(), plain(case), LIMITS[case.ctx.encoder_dtype])


@pytest.mark.sample
def test_a_step_has_the_gradients_of_the_loss() -> None:
    assert_equal_to_autograd(drawn())


@EVERY_OPTION
def test_every_option(option: str) -> None:
    assert_equal_to_autograd(drawn(options=OPTIONS[option]))


@pytest.mark.parametrize("option", ["tanh", "l0", "literal, slope to input"])
def test_options_in_float32(option: str) -> None:
    assert_equal_to_autograd(drawn(EXACT, options=OPTIONS[option]))


@pytest.mark.parametrize("penalty", ["tanh", "l0", "quadratic"])
@pytest.mark.parametrize("frequency_scale", [None, 0.1])
def test_under_a_controller(penalty: str, frequency_scale: float | None) -> None:
    options = {"penalty": penalty, "frequency_scale": frequency_scale}
    given = controlled()
    control = Control(given.factor.float(), given.l0.float())
    assert_equal_to_autograd(drawn(options=options, control=control))


@pytest.mark.parametrize("option", ["tanh", "l0, literal", "slope to input"])
def test_crosscoders_and_transcoders(option: str) -> None:
    assert_equal_to_autograd(drawn(options=OPTIONS[option], widths=(5, 3, 2)))
    assert_equal_to_autograd(drawn(options=OPTIONS[option], d_out=7))


@pytest.mark.parametrize("bias", [-50.0, 50.0])
@pytest.mark.parametrize("bandwidth", [2.0, 200.0])
def test_nothing_active_and_all_active(bias: float, bandwidth: float) -> None:
    options = {"ste_to_input": True, "bandwidth": bandwidth}
    case = drawn(options=options, bias=bias)
    assert float(plain(case).stats.fired_F.sum()) == (0 if bias < 0 else 8 * 24)
    assert_equal_to_autograd(case)


@pytest.mark.parametrize("shape", [(2, 577, 20), (1, 10, 130)], ids=str)
def test_any_shape(shape: tuple[int, int, int]) -> None:
    rows, d, latents = shape
    case = drawn(rows=rows, d_in=d, d_out=d, d_sae=latents)
    # An activation's rounding reaches its own gradient by the square of its row's norm.
    renormalise_rows_(case.params["W_dec"])
    assert_equal_to_autograd(case)


def test_sums_of_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_choice, "EACH", 32)
    monkeypatch.setattr(dense_choice, "WORDS", 2)
    monkeypatch.setattr(dense_jumprelu, "BACK_ROWS", 32)
    assert_equal_to_autograd(drawn(rows=70, d_sae=20))


@EVERY_KIND
def test_rows_of_zeros(kind: torch.dtype) -> None:
    case = drawn(kind)
    for name in ("W_enc", "W_dec"):
        case.params[name][::3] = 0
    case.batch.x_BD[::2] = 0
    assert_equal_to_autograd(case)


@EVERY_KIND
@pytest.mark.parametrize("away", [0.0, 1.0, -1.0])
def test_a_latent_at_its_threshold_or_at_an_edge_of_the_band(
    kind: torch.dtype, away: float
) -> None:
    """At the threshold it is silent and in the band; at an edge it is not in the band. With a
    threshold of 1 arithmetic is exact."""
    case = drawn(kind)
    case.params["W_enc"][:12] = 0
    case.params["t"][:12] = 0
    case.params["b_enc"][:12] = 1.0 + away
    assert_equal_to_autograd(case)


@pytest.mark.parametrize("bandwidth", [2.0, 1e-10])
@pytest.mark.parametrize("times", [0.5, 2.0])
def test_sides_of_levels_that_float16_cannot_hold(times: float, bandwidth: float) -> None:
    """Thresholds of 2e-9, and pre-activations of half and of twice as much."""
    case = drawn(options={"bandwidth": bandwidth})
    case.params["W_enc"][:12] = 0
    case.params["t"][:12] = -20.0
    case.params["b_enc"][:12] = times * case.params["t"][:12].exp()
    assert_equal_to_autograd(case)


@pytest.mark.parametrize("bandwidth", [2.0, 1e-4])
def test_sides_of_levels_are_those_of_float32(bandwidth: float) -> None:
    """Biases bring three entries of each latent so near to its threshold and to the band's edges
    that the product cannot say which side they are on."""
    case, half = drawn(rows=12, d_sae=60), bandwidth / 2
    x_BD, W_FD, t_F = case.batch.x_BD, case.params["W_enc"], case.params["t"]
    exact_BF, level_F = x_BD.double() @ W_FD.double().T, t_F.exp().double()
    latent = torch.arange(60)
    side_F = torch.randn(60, generator=torch.Generator().manual_seed(1)).sign()
    wanted_F = level_F + half * (latent % 3 - 1) + 1e-5 * side_F.double()
    b_F = (wanted_F - exact_BF[latent % 12, latent]).float()
    over_BF = exact_BF + b_F.double() - level_F
    x, W = scaled(x_BD, LOW), weights(W_FD, LOW)
    fired = dense_jumprelu_fire.fire(x, W, b_F, t_F.exp(), torch.ones(60), half)
    assert torch.equal(fired.f_BF > 0, over_BF > 0)
    assert torch.equal(fired.over_BF > 0, over_BF > 0)
    assert torch.equal(fired.over_BF < 0, over_BF < 0)
    assert torch.equal(band_of(fired.over_BF), over_BF.abs() < half)
    rounded_BF = (x.low_XD.float() @ W.low_XD.float().T).half() * x.scales[1] + b_F - level_F
    assert not torch.equal(rounded_BF > 0, over_BF > 0)


def band_of(over_BF: Tensor) -> Tensor:
    bits_BF = over_BF.view(torch.int16)
    return ((bits_BF & 1) != 0) | (bits_BF == 0)


@EVERY_KIND
def test_repeats_are_identical_bit_for_bit(kind: torch.dtype) -> None:
    case = drawn(kind)
    first, second = case.fast(), case.fast()
    assert torch.equal(first.loss, second.loss)
    assert all(torch.equal(value, second.grads[name]) for name, value in first.grads.items())


@pytest.mark.parametrize(("kind", "bad"), [(LOW, math.nan), (LOW, math.inf), (EXACT, math.nan)])
@pytest.mark.parametrize("where", ["x", "W_enc", "b_enc", "W_dec", "b_dec", "t"])
def test_what_is_not_finite_shows(kind: torch.dtype, where: str, bad: float) -> None:
    case = drawn(kind, rows=4, d_sae=9)
    tensor = case.batch.x_BD if where == "x" else case.params[where]
    tensor.view(-1)[3] = bad
    output = case.fast()
    shown = [output.loss, *output.grads.values()]
    assert not all(bool(torch.isfinite(value).all()) for value in shown)


def test_auxk_is_left_to_other_forms() -> None:
    assert spec_of().gpu_kernels
    assert not spec_of(auxk_coefficient=0.03, k_aux=4).gpu_kernels
