"""JumpReLU's gradients by hand are those of its loss, whichever way they take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.jumprelu_cases import WAYS, Case, controlled, spec_of, worst_error

from saeserve.core.architectures.contract import Batch
from saeserve.core.architectures.jumprelu import fast as jumprelu_fast

OPTIONS: dict[str, dict[str, Any]] = {
    "tanh": {},
    "tanh, narrow band": {"bandwidth": 0.4},
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
LIMITS = {torch.float64: 1e-8, torch.float32: 1e-5}
EVERY_WAY = pytest.mark.parametrize("way", sorted(WAYS))
EVERY_OPTION = pytest.mark.parametrize("option", sorted(OPTIONS))


@pytest.fixture(autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    way = request.node.callspec.params.get("way") if hasattr(request.node, "callspec") else None
    if way is not None:
        monkeypatch.setattr(jumprelu_fast, "choose", WAYS[way])


def assert_equal_to_autograd(case: Case, limit: float | None = None) -> None:
    found, expected = case.fast(), case.plain()
    limit = LIMITS[case.batch.x_BD.dtype] if limit is None else limit
    assert worst_error(found, expected) <= limit
    assert torch.equal(found.stats.fired_F, expected.stats.fired_F)
    torch.testing.assert_close(found.loss, expected.loss, rtol=limit, atol=0)
    torch.testing.assert_close(
        found.stats.squared_error, expected.stats.squared_error, rtol=limit, atol=0
    )


@EVERY_WAY
@EVERY_OPTION
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_option_on_every_way(option: str, way: str, dtype: torch.dtype) -> None:
    assert_equal_to_autograd(Case.draw(spec_of(**OPTIONS[option]), dtype=dtype))


@EVERY_WAY
@pytest.mark.parametrize("penalty", ["tanh", "l0", "quadratic"])
@pytest.mark.parametrize("frequency_scale", [None, 0.1])
def test_under_a_controller(way: str, penalty: str, frequency_scale: float | None) -> None:
    spec = spec_of(penalty=penalty, frequency_scale=frequency_scale)
    assert_equal_to_autograd(Case.draw(spec, control=controlled()))


@EVERY_WAY
@EVERY_OPTION
def test_crosscoders_and_transcoders(option: str, way: str) -> None:
    spec = spec_of(**OPTIONS[option])
    assert_equal_to_autograd(Case.draw(spec, widths=(5, 3, 2)))
    assert_equal_to_autograd(Case.draw(spec, d_out=7))


@EVERY_WAY
@pytest.mark.parametrize("dead", [[], list(range(30)), list(range(90))])
def test_auxk(way: str, dead: list[int]) -> None:
    spec = spec_of(auxk_coefficient=0.03, k_aux=4)
    assert_equal_to_autograd(Case.draw(spec, dead=dead))


@EVERY_WAY
@pytest.mark.parametrize("bias", [-50.0, 50.0])
@pytest.mark.parametrize("slope", [False, True])
def test_nothing_active_and_all_active(way: str, bias: float, slope: bool) -> None:
    """Then the band is empty as well; next to it, it is full."""
    case = Case.draw(spec_of(ste_to_input=slope), bias=bias)
    assert float(case.plain().stats.fired_F.sum()) == (0 if bias < 0 else 71 * 90)
    assert_equal_to_autograd(case)
    assert_equal_to_autograd(replace(case, spec=spec_of(ste_to_input=slope, bandwidth=200.0)))


@EVERY_WAY
def test_rows_of_zeros(way: str) -> None:
    """A decoder row of zeros has no direction; an input of zeros leaves the bias."""
    case = Case.draw(spec_of())
    for name in ("W_enc", "W_dec"):
        case.params[name][::3] = 0
    case.batch.x_BD[::2] = 0
    assert_equal_to_autograd(case)


@EVERY_WAY
def test_a_latent_at_its_threshold_is_silent_and_in_the_band(way: str) -> None:
    case = Case.draw(spec_of(), dtype=torch.float32)
    case.params["W_enc"][:20] = 0
    case.params["b_enc"][:20] = case.params["t"][:20].exp()
    assert_equal_to_autograd(case)


@EVERY_WAY
@pytest.mark.parametrize("rows", [1, 2, 5, 300, 600])
def test_any_number_of_rows(way: str, rows: int) -> None:
    assert_equal_to_autograd(Case.draw(spec_of(), rows=rows))


@EVERY_WAY
def test_micro_batches_add_up(way: str) -> None:
    case = Case.draw(spec_of(), rows=64)
    whole, halves = case.fast(), list[Case]()
    for part in (slice(0, 32), slice(32, 64)):
        rows_BD = case.batch.x_BD[part]
        halves.append(replace(case, batch=Batch(rows_BD, rows_BD)))
    outputs = [half.fast() for half in halves]
    for name in case.params:
        mean = sum(torch.as_tensor(output.grads[name]) for output in outputs) / 2
        torch.testing.assert_close(mean, torch.as_tensor(whole.grads[name]), msg=name)


@EVERY_WAY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_repeats_are_identical_bit_for_bit(way: str, dtype: torch.dtype) -> None:
    case = Case.draw(spec_of(), rows=600, dtype=torch.float32, encoder_dtype=dtype)
    first, second = case.fast(), case.fast()
    assert torch.equal(first.loss, second.loss)
    for name, gradient in first.grads.items():
        assert torch.equal(torch.as_tensor(gradient), torch.as_tensor(second.grads[name])), name


@EVERY_WAY
@pytest.mark.parametrize("where", ["x", "W_enc", "b_enc", "W_dec", "b_dec", "t"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_shown(way: str, where: str, dtype: torch.dtype) -> None:
    case = Case.draw(spec_of(), dtype=torch.float32, encoder_dtype=dtype)
    tensor = case.batch.x_BD if where == "x" else case.params[where]
    tensor.view(-1)[3] = torch.nan
    assert bool(case.fast().loss.isnan())


@pytest.mark.parametrize("way", ["in band", "below band"])
@EVERY_OPTION
def test_after_a_bfloat16_product_lists_give_exact_gradients(option: str, way: str) -> None:
    spec = spec_of(**OPTIONS[option])
    assert_equal_to_autograd(
        Case.draw(spec, rows=300, dtype=torch.float32, encoder_dtype=torch.bfloat16)
    )


@pytest.mark.parametrize("way", ["with band", "dense"])
@EVERY_OPTION
def test_bfloat16_products_change_gradients_by_rounding(option: str, way: str) -> None:
    """What is active is exact nevertheless; an entry that rounding moves over the band's edge
    counts whole, hence the limit."""
    spec = spec_of(**OPTIONS[option])
    case = Case.draw(spec, rows=300, dtype=torch.float32, encoder_dtype=torch.bfloat16)
    found, expected = case.fast(), case.plain()
    assert torch.equal(found.stats.fired_F, expected.stats.fired_F)
    assert worst_error(found, expected) <= 0.1
    for name in ("W_dec", "b_dec"):
        wanted = torch.as_tensor(expected.grads[name])
        error = (torch.as_tensor(found.grads[name]) - wanted).abs().max() / wanted.abs().max()
        assert float(error) <= 0.02, name


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 40),
    d_sae=st.integers(1, 40),
    bandwidth=st.floats(0.05, 5.0),
    bias=st.floats(-3.0, 3.0),
    penalty=st.sampled_from(["tanh", "l0"]),
    slope=st.booleans(),
    literal=st.booleans(),
)
def test_any_micro_batch(
    seed: int,
    rows: int,
    d_sae: int,
    bandwidth: float,
    bias: float,
    penalty: str,
    slope: bool,
    literal: bool,
) -> None:
    spec = spec_of(
        bandwidth=bandwidth, penalty=penalty, ste_to_input=slope, literal_pre_act=literal
    )
    assert_equal_to_autograd(Case.draw(spec, rows=rows, d_sae=d_sae, bias=bias, seed=seed))
