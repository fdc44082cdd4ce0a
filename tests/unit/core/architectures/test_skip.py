"""A skip transcoder's step against autograd of its loss as written, in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import pytest
import torch
from tests.fakes.forms import DIMS, form_setup, form_spec
from tests.fakes.jumprelu_cases import controlled
from tests.fakes.training import F, context
from torch import Tensor

from saeserve.core.architectures import skip
from saeserve.core.architectures.active import entries
from saeserve.core.architectures.base import by_autograd
from saeserve.core.architectures.contract import Batch, Context, StepOutput, Tensors
from saeserve.core.architectures.jumprelu import fast as jumprelu_fast
from saeserve.core.architectures.registry import ARCHITECTURES, architecture_for
from saeserve.core.architectures.skip import WithSkip
from saeserve.core.architectures.topk import fast as topk_fast
from saeserve.core.kernels import compiled
from saeserve.core.specs.architectures.base import ArchitectureSpec

FORM = "skip transcoder"
NESTED: dict[str, Any] = {"k": 4, "k_aux": 8, "widths": [8, 24, F]}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ARCHITECTURES},
    "multi-topk": ("topk", {"k": 4, "k_aux": 8, "multi_topk_coefficient": 0.125}),
    "nested": ("matryoshka", NESTED),
    "nested, detached": ("matryoshka", NESTED | {"detach_inner": True}),
    "one prefix, detached": ("matryoshka", NESTED | {"widths": [F], "detach_inner": True}),
    "jumprelu, l0": ("jumprelu", {"penalty": "l0", "sparsity_coefficient": 0.5}),
    "jumprelu, literal": (
        "jumprelu",
        {"literal_pre_act": True, "ste_to_input": True, "sparsity_coefficient": 0.5},
    ),
    "jumprelu, AuxK": ("jumprelu", {"sparsity_coefficient": 0.5, "auxk_coefficient": 0.03}),
    "relu, unit rows": ("relu", {"sparsity_coefficient": 0.5, "unit_norm": True}),
    "gated, AuxK": ("gated", {"sparsity_coefficient": 0.5, "auxk_coefficient": 0.03}),
}
EVERY_OPTION = pytest.mark.parametrize("option", OPTIONS)
COMPILED = [o for o, (name, _) in OPTIONS.items() if name not in ("relu", "gated")]


@dataclass(frozen=True)
class Case:
    """A step in which W_skip is not zero, with some latents dead."""

    architecture: WithSkip
    spec: ArchitectureSpec
    params: Tensors
    state: Tensors
    batch: Batch
    ctx: Context

    @classmethod
    def of(cls, option: str, dtype: torch.dtype = torch.float64) -> Case:
        name, fields = OPTIONS[option]
        train = form_spec(name, FORM, **({name: fields} if fields else {}))
        setup, spec = form_setup(train, FORM), train.architecture
        rows = setup.dims.batch(setup.preprocessing.apply(setup.source.batch(0, 512).double()))
        architecture = WithSkip(architecture_for(spec))
        params, state = architecture.initialise(spec, DIMS[FORM], *_pair(rows), seed=3)
        batch = Batch(rows.x_BD[:40].to(dtype), rows.target_BO[:40].to(dtype))
        scheduled = architecture.scheduled(spec, 25, 50)
        ctx = context(F, list(range(0, F, 3)), scheduled=scheduled)
        moved = {key: _moved(value).to(dtype) for key, value in params.items()}
        state = {key: value.to(dtype) if value.dim() else value for key, value in state.items()}
        return cls(architecture, spec, moved, state, batch, ctx)

    def fast(self) -> StepOutput:
        args = (self.spec, self.params, self.state, self.batch, self.ctx)
        return self.architecture.gradients(*args)

    def plain(self) -> StepOutput:
        """By autograd of the loss of the whole, in the parameters' type."""
        ctx = replace(self.ctx, encoder_dtype=torch.float32)
        rest = (self.state, self.batch, ctx)
        return by_autograd(
            lambda leaves: self.architecture.loss(self.spec, leaves, *rest), self.params
        )


def _pair(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.x_BD, batch.target_BO


def _moved(value: Tensor) -> Tensor:
    draws = torch.Generator().manual_seed(5)
    return value + 0.05 * torch.randn(value.shape, generator=draws, dtype=value.dtype)


def agree(found: StepOutput, written: StepOutput, tolerance: float) -> None:
    """All that a step returns; gradients within `tolerance` of their largest."""
    assert found.grads.keys() == written.grads.keys()
    for name, expected in written.grads.items():
        assert found.grads[name].is_contiguous(), name
        error = float((found.grads[name] - expected).abs().max())
        assert error <= tolerance * float(expected.abs().max()), name
    assert found.terms.keys() == written.terms.keys()
    scalars = {**written.terms, "loss": written.loss, "error": written.stats.squared_error}
    made = {**found.terms, "loss": found.loss, "error": found.stats.squared_error}
    for name, expected in {**scalars, **written.state}.items():
        value = {**made, **found.state}[name]
        torch.testing.assert_close(
            value, expected, rtol=tolerance, atol=tolerance, check_dtype=False
        )
    assert torch.equal(found.stats.fired_F, written.stats.fired_F)


@EVERY_OPTION
def test_gradients_are_those_of_the_loss(option: str) -> None:
    case = Case.of(option)
    assert float(case.params["W_skip"].abs().min()) > 0
    agree(case.fast(), case.plain(), 1e-8)


@EVERY_OPTION
def test_without_kernels_gradients_are_those_of_the_loss(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (topk_fast, jumprelu_fast, entries):
        monkeypatch.setattr(module, "usable", lambda *_tensors: False)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    case = Case.of(option)
    agree(case.fast(), case.plain(), 1e-8)


def test_under_a_controller() -> None:
    case = Case.of("jumprelu, l0")
    case = replace(case, ctx=replace(case.ctx, control=controlled()))
    agree(case.fast(), case.plain(), 1e-8)


@pytest.mark.parametrize("option", COMPILED)
def test_kernels_take_the_step(option: str) -> None:
    """Autograd of the loss would be several times slower."""
    if not compiled.available():
        pytest.skip("numba is not installed")
    case = Case.of(option)
    inner = type(architecture_for(case.spec))
    with mock.patch.object(inner, "autograd_loss", side_effect=AssertionError("by autograd")):
        case.fast()


@pytest.mark.parametrize("option", COMPILED)
def test_a_choice_in_low_precision_is_that_of_float32(option: str) -> None:
    """The target is what is left of it in float32, so its gradient has nothing of the rounding."""
    case = Case.of(option, torch.float32)
    low = replace(case, ctx=replace(case.ctx, encoder_dtype=torch.bfloat16))
    rounded = case.spec.name == "jumprelu"  # its products on the dense way are low too
    agree(low.fast(), case.plain(), 2e-2 if rounded else 1e-4)


def test_nothing_is_left_of_the_targets_gradient() -> None:
    case = Case.of("topk")
    assert case.fast().to_target_BO is None
    inner = architecture_for(case.spec)
    params = {name: value for name, value in case.params.items() if name != skip.W_SKIP}
    output = inner.gradients(case.spec, params, case.state, case.batch, case.ctx)
    assert output.to_target_BO is None


def test_an_architecture_that_leaves_it_out_is_refused() -> None:
    case = Case.of("topk")
    inner = type(architecture_for(case.spec))
    without = replace(case.fast(), to_target_BO=None)
    with (
        mock.patch.object(inner, "gradients", return_value=without),
        pytest.raises(TypeError, match="leaves out the target's gradient"),
    ):
        case.fast()
