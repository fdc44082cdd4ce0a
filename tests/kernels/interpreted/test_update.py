"""The optimiser's kernels against the step that is written out."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from torch import Tensor

from saeserve.core.gpu import measures, shadows, update
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.ops.adam import AdamSettings, Moments
from saeserve.core.ops.rows import Tensors
from saeserve.core.ops.update import Optimizer, reference_, update_

UNIT = frozenset({"W_dec"})
ADAM = AdamSettings(beta1=0.9, beta2=0.99, eps=1e-8)


def optimizer(clip_norm: float = 1.0, lr: float = 0.01) -> Optimizer:
    return Optimizer(ADAM, clip_norm, lr)


def drawn(rows: int, columns: int, seed: int, size: float = 1.0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (rows, columns), "W_dec": (rows, columns), "b_enc": (rows,), "b_dec": (3,)}
    return {name: size * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def parameters(rows: int, columns: int) -> Tensors:
    params = drawn(rows, columns, 99)
    params["W_dec"] /= params["W_dec"].square().sum(dim=1, keepdim=True).sqrt()
    return params


def trained(
    params: Tensors, gradients: list[Tensors], how: Optimizer
) -> tuple[Tensors, list[float]]:
    """Parameters and moments after the kernels' step on each of the gradients, and the norms."""
    params = {name: value.clone() for name, value in params.items()}
    moments, norms = Moments.zeros(params), list[float]()
    for step, each in enumerate(gradients):
        assert usable_on_device(*params.values(), *each.values())
        norms.append(float(update_(params, dict(each), moments, UNIT & params.keys(), how, step)))
    return named(params, moments), norms


def written_out(
    params: Tensors, gradients: list[Tensors], how: Optimizer, dtype: torch.dtype = torch.float64
) -> tuple[Tensors, list[float]]:
    """The same by `reference_`, in float64."""
    params = {name: value.to(dtype) for name, value in params.items()}
    moments, norms = Moments.zeros(params), list[float]()
    for step, each in enumerate(gradients):
        wide = {name: value.to(dtype) for name, value in each.items()}
        norms.append(float(reference_(params, wide, moments, UNIT & params.keys(), how, step)))
    return named(params, moments), norms


def named(params: Tensors, moments: Moments) -> Tensors:
    groups = {"": params, "first.": moments.first, "second.": moments.second}
    return {group + name: t for group, found in groups.items() for name, t in found.items()}


def agree(found: Tensors, expected: Tensors, tolerance: float = 2e-6) -> None:
    """Within `tolerance` of each tensor's largest number: float32 after some steps."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        off = float((found[name] - value).abs().max())
        assert off <= tolerance * float(value.abs().max()), name


@pytest.mark.sample
@pytest.mark.parametrize("clip", [0.0, 1e-3, 1e6])
def test_kernels_are_the_step_that_is_written_out(clip: float) -> None:
    params = parameters(6, 33)
    grads = [drawn(6, 33, step) for step in range(3)]
    found, norms = trained(params, grads, optimizer(clip))
    expected, expected_norms = written_out(params, grads, optimizer(clip))
    assert norms == pytest.approx(expected_norms, rel=1e-6)
    agree(found, expected)


@pytest.mark.parametrize("shape", [(1, 1), (3, 577), (2, 1024)], ids=str)
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e9])
def test_any_width_and_size_of_gradients(shape: tuple[int, int], size: float) -> None:
    params = parameters(*shape)
    grads = [drawn(*shape, step, size) for step in range(2)]
    found, norms = trained(params, grads, optimizer())
    expected, expected_norms = written_out(params, grads, optimizer())
    assert norms == pytest.approx(expected_norms, rel=1e-5)
    # What moves by Adam's eps in float32: gradients of 1e-12 are far below 1e-8.
    agree(found, expected, 1e-5)


def test_a_vector_of_more_numbers_than_a_program_takes() -> None:
    params, grads = {"b_enc": torch.randn(2500)}, {"b_enc": torch.randn(2500)}
    found, norms = trained(params, [grads], optimizer())
    expected, expected_norms = written_out(params, [grads], optimizer())
    assert norms == pytest.approx(expected_norms, rel=1e-6)
    agree(found, expected)


def test_two_runs_are_equal_to_the_bit() -> None:
    params = parameters(5, 577)
    grads = [drawn(5, 577, step) for step in range(2)]
    one, other = (trained(params, grads, optimizer()) for _ in range(2))
    assert one[1] == other[1]
    assert all(torch.equal(value, other[0][name]) for name, value in one[0].items())


def test_unit_rows_stay_unit_and_radial_gradients_move_nothing() -> None:
    params = parameters(7, 9)
    found, _ = trained(params, [drawn(7, 9, 0)], optimizer(lr=0.5))
    norms_F = found["W_dec"].square().sum(dim=1).sqrt()
    torch.testing.assert_close(norms_F, torch.ones_like(norms_F), rtol=1e-6, atol=0)
    along = {name: torch.zeros_like(value) for name, value in params.items()}
    along["W_dec"] = params["W_dec"] * 7.0
    _, [norm] = trained(params, [along], optimizer())
    assert norm < 1e-5


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_reaches_every_parameter(name: str, bad: float) -> None:
    params, grads = parameters(6, 5), drawn(6, 5, 0)
    grads[name].view(-1)[2] = bad
    found, [norm] = trained(params, [grads], optimizer())
    assert not math.isfinite(norm)
    # An infinite norm makes the clip's factor 0: what was infinite is NaN, the rest stands still.
    touched = params if math.isnan(norm) else [name]
    assert all(bool(found[each].isnan().any()) for each in touched)


def test_zero_rows_and_zero_gradients_stay_finite() -> None:
    params = parameters(5, 4)
    params["W_dec"][2] = 0.0
    none = {name: torch.zeros_like(value) for name, value in params.items()}
    found, [norm] = trained(params, [none], optimizer())
    assert norm == 0.0
    torch.testing.assert_close(found["W_dec"], params["W_dec"])
    found, _ = trained(params, [drawn(5, 4, 1)], optimizer())
    assert all(bool(value.isfinite().all()) for value in found.values())


@pytest.mark.sample
def test_low_copies_follow_the_weights() -> None:
    params, grads = parameters(6, 33), drawn(6, 33, 1)
    params["W_enc"][2] = 0.0
    params["W_enc"][3] *= 1e6
    copy = shadows.of(params["W_enc"])
    assert not copy.holds(params["W_enc"])
    update_(params, grads, Moments.zeros(params), UNIT, optimizer(), 0)
    assert copy.holds(params["W_enc"])
    assert torch.equal(copy.low_FD, params["W_enc"].to(shadows.LOW))
    exact_FD = params["W_enc"].double()
    lost_FD = exact_FD - copy.low_FD.double()
    close(copy.norm_F, exact_FD.square().sum(1).sqrt())
    close(copy.lost_F, lost_FD.square().sum(1).sqrt())
    close(copy.fourth_F, exact_FD.pow(4).sum(1).pow(0.25))
    close(copy.lost_fourth_F, lost_FD.pow(4).sum(1).pow(0.25))
    params["W_enc"] += 1.0
    assert not copy.holds(params["W_enc"])


def close(found_F: Tensor, expected_F: Tensor) -> None:
    torch.testing.assert_close(found_F, expected_F.float(), rtol=1e-6, atol=0)


def sums_of(g_FD: Tensor, w_FD: Tensor, tile: int) -> Tensor:
    """What the kernel that makes a gradient notes of it, by tiles of so many columns."""
    g_FD, w_FD = g_FD.double(), w_FD.double()
    made: list[Tensor] = []
    for one, other in ((g_FD, g_FD), (g_FD, w_FD), (w_FD, w_FD)):
        products, starts = one * other, range(0, one.shape[1], tile)
        made.append(torch.stack([products[:, at : at + tile].sum(1) for at in starts]))
    return torch.stack(made)


@pytest.mark.sample
def test_gradients_that_were_measured_move_parameters_as_others_do() -> None:
    """Mostly along the unit rows, which the norm must not count."""
    params, grads = parameters(6, 33), drawn(6, 33, 1)
    grads["W_dec"] = 1e-3 * grads["W_dec"] + 5.0 * params["W_dec"]
    expected, [norm] = written_out(params, [grads], optimizer())
    sums = {name: sums_of(grads[name], params[name], 16) for name in ("W_enc", "W_dec")}
    measures.keep(grads["W_enc"], params["W_enc"], sums["W_enc"][: measures.ENCODER])
    measures.keep(grads["W_dec"], params["W_dec"], sums["W_dec"])
    moments = Moments.zeros(params)
    with mock.patch.object(update, "measure", wraps=update.measure) as measure:
        found = update_(params, grads, moments, UNIT, optimizer(), 0)
    assert measure.call_count == 2
    assert float(found) == pytest.approx(norm, rel=1e-5)
    # The gradient across the rows is a small part of it, so float32 holds fewer digits.
    agree(named(params, moments), expected, 2e-4)


@pytest.mark.parametrize("change", ["gradient", "parameter", "kind", "nothing"])
def test_what_was_measured_holds_until_something_changes(change: str) -> None:
    g_FD, w_FD = torch.ones(3, 4), torch.ones(3, 4)
    sums = sums_of(g_FD, w_FD, 4)
    measures.keep(g_FD, w_FD, sums[: measures.ENCODER] if change == "kind" else sums)
    if change in ("gradient", "parameter"):
        (g_FD if change == "gradient" else w_FD).add_(1)
    assert (measures.take(g_FD, w_FD, unit=True) is None) == (change != "nothing")
    assert measures.take(g_FD, w_FD, unit=True) is None


def test_rows_too_wide_for_a_program_are_stepped_as_written() -> None:
    wide, grads = ({"W_dec": torch.randn(2, 4097)} for _ in range(2))
    expected = {"W_dec": wide["W_dec"].clone()}
    reference_(
        expected, {"W_dec": grads["W_dec"].clone()}, Moments.zeros(expected), UNIT, optimizer(), 0
    )
    update_(wide, grads, Moments.zeros(wide), UNIT, optimizer(), 0)
    agree(wide, expected, 1e-6)
