"""The two passes against the step that is written out, and against what must hold of any."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from saeserve.core.kernels.compiled import available
from saeserve.core.ops.adam import AdamSettings, Moments
from saeserve.core.ops.rows import Tensors
from saeserve.core.ops.update import SMALLEST_MOMENT, Optimizer, reference_, update_

UNIT = frozenset({"W_dec"})
ADAM = AdamSettings(beta1=0.9, beta2=0.99, eps=1e-8)


def optimizer(clip_norm: float = 1.0, lr: float = 0.01) -> Optimizer:
    return Optimizer(ADAM, clip_norm, lr)


def drawn(rows: int, columns: int, seed: int, dtype: torch.dtype, size: float = 1.0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (rows, columns), "W_dec": (rows, columns), "b_enc": (rows,), "b_dec": (3,)}
    return {
        name: (size * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        for name, shape in shapes.items()
    }


def parameters(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> Tensors:
    params = drawn(rows, columns, 99, dtype)
    params["W_dec"] /= params["W_dec"].square().sum(dim=1, keepdim=True).sqrt()
    return params


Step = Callable[[Tensors, Tensors, Moments, frozenset[str], Optimizer, int], Tensor]


def trained(
    step_: Step, gradients: list[Tensors], params: Tensors, how: Optimizer
) -> tuple[Tensors, list[float]]:
    """Parameters and moments after a step on each of the gradients, and the norms."""
    params = {name: value.clone() for name, value in params.items()}
    moments, norms = Moments.zeros(params), list[float]()
    for step, each in enumerate(gradients):
        mine = {name: value.clone() for name, value in each.items()}
        norms.append(float(step_(params, mine, moments, UNIT, how, step)))
    named = {"": params, "first.": moments.first, "second.": moments.second}
    return {group + name: t for group, found in named.items() for name, t in found.items()}, norms


def test_kernels_are_compiled_where_the_tests_run() -> None:
    assert available()


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    seed=st.integers(0, 2**16),
    clip=st.sampled_from([0.0, 1e-3, 1.0, 1e6]),
    size=st.sampled_from([1e-12, 1e-3, 1.0, 1e9]),
)
def test_two_passes_are_the_step_that_is_written_out(
    rows: int, columns: int, seed: int, clip: float, size: float
) -> None:
    params = parameters(rows, columns)
    grads = [drawn(rows, columns, seed + step, torch.float64, size) for step in range(3)]
    found, norms = trained(update_, grads, params, optimizer(clip))
    expected, expected_norms = trained(reference_, grads, params, optimizer(clip))
    assert norms == pytest.approx(expected_norms, rel=1e-9)
    for name, value in expected.items():
        bound = 1e-9 * float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=bound, msg=name)


def test_in_float32_they_differ_by_rounding() -> None:
    """Both are compared with float64: the two passes are no further from it."""
    wide = parameters(64, 48)
    grads = [drawn(64, 48, step, torch.float64, 1e-3) for step in range(20)]
    exact, _ = trained(reference_, grads, wide, optimizer())
    narrow = {name: value.float() for name, value in wide.items()}
    narrow_grads = [{name: value.float() for name, value in each.items()} for each in grads]
    for step_ in (update_, reference_):
        found, _ = trained(step_, narrow_grads, narrow, optimizer())
        for name, value in exact.items():
            assert found[name].dtype == torch.float32
            off = float((found[name] - value).abs().max() / value.abs().max())
            assert off < 2e-6, (step_, name, off)


@given(seed=st.integers(0, 2**16), lr=st.floats(1e-6, 0.5))
def test_unit_rows_stay_unit_and_radial_gradients_move_nothing(seed: int, lr: float) -> None:
    params = parameters(12, 9)
    grads = drawn(12, 9, seed, torch.float64)
    found, _ = trained(update_, [grads], params, optimizer(lr=lr))
    norms_F = found["W_dec"].square().sum(dim=1).sqrt()
    torch.testing.assert_close(norms_F, torch.ones_like(norms_F), rtol=1e-12, atol=0)
    along = {name: torch.zeros_like(value) for name, value in params.items()}
    along["W_dec"] = params["W_dec"] * 7.0
    _, [norm] = trained(update_, [along], params, optimizer(lr=lr))
    assert norm < 1e-6


def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    params = parameters(301, 33, torch.float32)
    grads = [drawn(301, 33, step, torch.float32) for step in range(3)]
    before = torch.get_num_threads()
    found: list[Tensors] = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(trained(update_, grads, params, optimizer())[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_reaches_every_parameter(name: str, bad: float) -> None:
    params, grads = parameters(6, 5, torch.float32), drawn(6, 5, 0, torch.float32)
    grads[name].view(-1)[2] = bad
    found, [norm] = trained(update_, [grads], params, optimizer())
    assert not math.isfinite(norm)
    # An infinite norm makes the clip's factor 0: what was infinite is NaN, the rest stands still.
    touched = params if math.isnan(norm) else [name]
    assert all(bool(found[each].isnan().any()) for each in touched)


@given(seed=st.integers(0, 2**16), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_zero_row_and_a_zero_gradient_stay_finite(seed: int, dtype: torch.dtype) -> None:
    params = parameters(5, 4, dtype)
    params["W_dec"][2] = 0.0
    none = {name: torch.zeros_like(value) for name, value in params.items()}
    found, [norm] = trained(update_, [none], params, optimizer())
    assert norm == 0.0
    torch.testing.assert_close(found["W_dec"], params["W_dec"])
    found, _ = trained(update_, [drawn(5, 4, seed, dtype)], params, optimizer())
    assert all(bool(value.isfinite().all()) for value in found.values())


def test_moments_without_gradient_end_at_zero_not_in_denormals() -> None:
    params = parameters(4, 8, torch.float32)
    grads = drawn(4, 8, 1, torch.float32, 1e-3)
    none = {name: torch.zeros_like(value) for name, value in grads.items()}
    found, _ = trained(update_, [grads] + [none] * 900, params, optimizer())
    for name, value in found.items():
        if name.startswith(("first.", "second.")):
            assert bool(((value == 0) | (value.abs() >= SMALLEST_MOMENT)).all()), name
    assert not found["first.W_enc"].any()


def test_what_kernels_cannot_take_is_stepped_as_written() -> None:
    """A transposed matrix is not contiguous."""
    params, grads = parameters(6, 6, torch.float64), drawn(6, 6, 3, torch.float64)
    expected, _ = trained(reference_, [grads], params, optimizer())
    turned = grads | {"W_enc": grads["W_enc"].mT.contiguous().mT}
    assert not turned["W_enc"].is_contiguous()
    moments = Moments.zeros(params)
    update_(params, turned, moments, UNIT, optimizer(), 0)
    assert torch.equal(params["W_enc"], expected["W_enc"])
