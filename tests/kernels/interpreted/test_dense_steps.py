"""The whole steps of ReLU and gated SAEs in Triton against autograd of their losses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fakes.dense_cases import ARCHITECTURES, Case, agree
from torch import Tensor

from saeserve.core.architectures import dense_fast
from saeserve.core.architectures.base import by_autograd
from saeserve.core.architectures.contract import Control, StepOutput
from saeserve.core.gpu import shadows
from saeserve.core.gpu_dense import choice as dense_choice
from saeserve.core.gpu_dense import gated as dense_gated
from saeserve.core.gpu_dense import relu as dense_relu
from saeserve.core.gpu_dense import rows as dense_rows
from saeserve.core.gpu_dense.rows import scaled, weights
from saeserve.core.ops.adam import AdamSettings, Moments
from saeserve.core.ops.update import Optimizer, update_

LOW, EXACT = torch.bfloat16, torch.float32
LIMITS = {LOW: 1e-3, EXACT: 1e-5}
EVERY = pytest.mark.parametrize("name", ["relu", "gated"])


@pytest.mark.sample
@EVERY
def test_a_step_has_the_gradients_of_the_loss(name: str) -> None:
    case = Case(name)
    assert dense_fast.possible(case.spec(), case.params(), case.batch())
    agree(case.fast(), case.plain(), LIMITS[LOW])


@EVERY
@pytest.mark.parametrize("kind", [LOW, EXACT], ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {"d_in": 577, "d_out": 577, "rows": 2},
        {"d_sae": 130, "rows": 1},
        {"d_out": 7},
        {"widths": (5, 3, 2)},
        {"d_out": 12, "widths": (5, 7)},
        {"shift": -20.0},
        {"shift": 20.0},
        {"grid": True},
    ],
    ids=str,
)
def test_gradients_are_those_of_the_loss(
    name: str, kind: torch.dtype, changes: dict[str, Any]
) -> None:
    """Odd widths, crosscoders, transcoders, nothing and all active, pre-activations of 0."""
    case = Case(name, encoder_dtype=kind, **changes)
    agree(case.fast(), case.plain(), LIMITS[kind])


@EVERY
def test_sums_of_several_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(name, rows=70, d_sae=20)
    monkeypatch.setattr(dense_choice, "EACH", 32)
    monkeypatch.setattr(dense_choice, "WORDS", 2)
    monkeypatch.setattr({"relu": dense_relu, "gated": dense_gated}[name], "BACK_ROWS", 32)
    agree(case.fast(), case.plain(), LIMITS[LOW])


@pytest.mark.parametrize("widths", [(), (5, 3, 2)])
def test_unit_rows_have_no_gradient_of_their_norms(widths: tuple[int, ...]) -> None:
    case = Case("relu", widths=widths, options={"unit_norm": True})
    agree(case.fast(), case.plain(), LIMITS[LOW])


@EVERY
def test_under_a_controller(name: str) -> None:
    control = Control(torch.tensor(1.3), torch.tensor(5.0))
    case = Case(name)
    agree(case.fast(control=control), case.plain(control=control), LIMITS[LOW])


@EVERY
@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_rows_of_any_size(name: str, size: float) -> None:
    """float16 alone would hold neither the smallest nor the largest of them."""
    case = Case(name, size=size, d_sae=40)
    agree(case.fast(), case.plain(), LIMITS[LOW])


@EVERY
def test_rows_of_zeros(name: str) -> None:
    case, params = Case(name), Case(name).params()
    for vectors in ("W_enc", "W_dec"):
        params[vectors][::3] = 0
    agree(case.fast(params), case.plain(params), LIMITS[LOW])


@EVERY
def test_two_steps_are_equal_to_the_bit(name: str) -> None:
    case = Case(name)
    one, other = case.fast(), case.fast()
    assert torch.equal(one.loss, other.loss)
    assert all(torch.equal(value, other.grads[each]) for each, value in one.grads.items())


def test_relu_decides_signs_as_float32_does() -> None:
    """Biases bring one entry of each latent so near to 0 that the product cannot say which side."""
    case, params = Case("relu", rows=12, d_sae=40), Case("relu", rows=12, d_sae=40).params()
    x_BD = case.batch().x_BD
    exact_BF = x_BD.double() @ params["W_enc"].double().T
    spread_F = 1e-5 * case.draw(40, seed=20).sign().double()
    params["b_enc"] = (spread_F - exact_BF[torch.arange(40) % 12, torch.arange(40)]).float()
    h_BF = exact_BF + params["b_enc"].double()
    x, W = scaled(x_BD, LOW), weights(params["W_enc"], LOW)
    f_BF = dense_relu.fire(x, W, params["b_enc"])
    assert torch.equal(f_BF > 0, h_BF > 0)
    rounded_BF = (x.low_XD.float() @ W.low_XD.float().T).half() * x.scales[1] + params["b_enc"]
    assert not torch.equal(rounded_BF > 0, h_BF > 0)


def test_gates_and_magnitudes_are_decided_as_in_float32() -> None:
    case, params = Case("gated", rows=12, d_sae=40), Case("gated", rows=12, d_sae=40).params()
    x_BD, near = case.batch().x_BD, (torch.arange(40) % 12, torch.arange(40))
    exact_BF = x_BD.double() @ params["W_enc"].double().T
    spread_F = 1e-5 * case.draw(40, seed=20).sign().double()
    e_F = params["r_mag"].exp()
    params["b_gate"] = (spread_F - exact_BF[near]).float()
    near = (near[0] + 1) % 12, near[1]
    params["b_mag"] = (spread_F - e_F.double() * exact_BF[near]).float()
    open_BF = exact_BF + params["b_gate"].double() > 0
    active_BF = open_BF & (e_F.double() * exact_BF + params["b_mag"].double() > 0)
    vectors = dense_gated.Vectors(params["b_gate"], params["b_mag"], e_F)
    both_XF = dense_gated.fire(scaled(x_BD, LOW), weights(params["W_enc"], LOW), vectors)
    assert torch.equal(both_XF[12:] > 0, open_BF)
    assert torch.equal(both_XF[:12] > 0, active_BF)


@EVERY
@pytest.mark.parametrize(("kind", "bad"), [(LOW, math.nan), (LOW, math.inf), (EXACT, math.nan)])
@pytest.mark.parametrize("where", ["x", "target", "W_enc", "W_dec", "bias", "b_dec"])
def test_what_is_not_finite_shows(name: str, kind: torch.dtype, where: str, bad: float) -> None:
    """In the loss, or in a gradient, which makes the next loss NaN: wherever autograd shows it."""
    case = Case(name, rows=2, d_out=7, d_sae=9, encoder_dtype=kind)
    batch, params = case.batch(), case.params()
    params["bias"] = params["b_enc" if name == "relu" else "b_gate"]
    {"x": batch.x_BD, "target": batch.target_BO, **params}[where].view(-1)[3] = bad
    del params["bias"]
    architecture, spec, ctx = ARCHITECTURES[name], case.spec(), case.context()
    output = architecture.gradients(spec, params, {}, batch, ctx)
    exact = replace(ctx, encoder_dtype=EXACT)
    expected = by_autograd(lambda leaves: architecture.loss(spec, leaves, {}, batch, exact), params)
    assert finite(expected) or not finite(output)
    assert not finite(expected) or where == "W_enc"


def finite(output: StepOutput) -> bool:
    shown = [output.loss, *output.grads.values()]
    return all(bool(torch.isfinite(value).all()) for value in shown)


@EVERY
def test_activations_that_float16_cannot_hold_are_shown(name: str) -> None:
    case, params = Case(name), Case(name).params()
    params["W_enc"] *= 1e5
    assert not bool(case.fast(params).loss.isfinite())
    exact = replace(case, encoder_dtype=EXACT)
    agree(exact.fast(params), exact.plain(params), LIMITS[EXACT])


@EVERY
def test_auxk_is_left_to_autograd(name: str) -> None:
    case = Case(name, options={"auxk_coefficient": 0.03, "k_aux": 4})
    assert not dense_fast.possible(case.spec(), case.params(), case.batch())


@EVERY
def test_copies_of_both_dictionaries_follow_the_weights(name: str) -> None:
    case, params = Case(name), Case(name).params()
    grads = dict(case.fast(params).grads)
    adam = AdamSettings(beta1=0.9, beta2=0.99, eps=1e-8)
    moments = Moments.zeros(params)
    update_(params, grads, moments, frozenset({"W_dec"}), Optimizer(adam, 1.0, 0.01), 0)
    for each in ("W_enc", "W_dec"):
        copy = shadows.known(params[each])
        assert copy is not None
        assert copy.holds(params[each])
        assert torch.equal(copy.low_FD, params[each].half())


@pytest.mark.sample
@pytest.mark.parametrize("size", [1e-29, 1e-5, 0.9, 1.0, 3e4, 1e29])
def test_rows_are_scaled_by_a_power_of_two(size: float) -> None:
    rows_XD = size * Case("relu").draw(3, 577, seed=1)
    found = dense_rows.scaled(rows_XD, LOW)
    scale, inverse = float(found.scales[0]), float(found.scales[1])
    assert scale * inverse == 1.0
    assert math.frexp(scale)[0] == 0.5
    assert 32 <= scale * float(rows_XD.abs().max()) < 64
    assert torch.equal(found.low_XD, (scale * rows_XD).half())
    close(found.norm_X, (scale * rows_XD.double()).square().sum(1).sqrt())
    lost_XD = scale * rows_XD.double() - found.low_XD.double()
    close(found.lost_X, lost_XD.square().sum(1).sqrt())


def close(found_X: Tensor, expected_X: Tensor) -> None:
    torch.testing.assert_close(found_X, expected_X.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("number", [0.0, math.inf, math.nan])
def test_what_has_no_size_is_not_scaled(number: float) -> None:
    rows_XD = torch.zeros(2, 5)
    rows_XD[1, 2] = number
    assert torch.equal(scaled(rows_XD, LOW).scales, torch.ones(2))
