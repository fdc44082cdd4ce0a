"""The compiled step against autograd of the loss as written, in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.training import context
from torch import Tensor

from saeserve.core.architectures.active import entries
from saeserve.core.architectures.base import Architecture, by_autograd
from saeserve.core.architectures.contract import Batch, Context, LossOutput, StepOutput, Tensors
from saeserve.core.architectures.topk import fast as sparse_step
from saeserve.core.architectures.topk.fast import FastBatchTopK, FastMatryoshka, FastTopK
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec
from saeserve.core.specs.architectures.topk import TopKSpec

D, F = 7, 60
DEAD = list(range(3, F, 4))
AUX: dict[str, Any] = {"k_aux": 6}
OFF: dict[str, Any] = {"k_aux": 6, "auxk_coefficient": 0.0}
NESTED: dict[str, Any] = {"widths": (4, 20, F)}
EVERY_POSITIVE = BatchTopKSpec(k=F, **AUX)
SPECS: list[ArchitectureSpec] = [
    TopKSpec(k=5, **OFF),
    TopKSpec(k=5, **AUX),
    TopKSpec(k=5, k_aux=40),
    TopKSpec(k=5, **AUX, multi_topk_coefficient=1 / 8),
    TopKSpec(k=F // 3, **AUX, multi_topk_coefficient=1 / 8),
    TopKSpec(k=F, **AUX),
    BatchTopKSpec(k=5, **AUX),
    BatchTopKSpec(k=2.3, **OFF),
    BatchTopKSpec(k=5, **AUX, k_initial=20),
    EVERY_POSITIVE,
    MatryoshkaSpec(k=5, **AUX, **NESTED),
    MatryoshkaSpec(k=5, **AUX, **NESTED, detach_inner=True, sort_by_frequency=True),
    MatryoshkaSpec(k=5, **OFF, widths=(F,), detach_inner=True),
]
ARCHITECTURES: dict[str, Architecture[Any]] = {
    "topk": FastTopK(),
    "batchtopk": FastBatchTopK(),
    "matryoshka": FastMatryoshka(),
}


@dataclass(frozen=True)
class Case:
    """A step's arguments. On a grid all arithmetic is exact, so that twin latents always tie."""

    rows: int = 40
    dtype: torch.dtype = torch.float64
    seed: int = 0
    shift: float = 0.0
    grid: bool = False
    transcoder: bool = False
    dead: list[int] = field(default_factory=lambda: DEAD)
    encoder_dtype: torch.dtype = torch.float32
    bound: int | None = None

    def params(self) -> Tensors:
        d_out = D + 4 if self.transcoder else D
        named = {
            "W_enc": self.draw(F, D, seed=1),
            "b_enc": 0.25 * self.draw(F, seed=2) + self.shift,
            "W_dec": self.draw(F, d_out, seed=3),
            "b_dec": 0.25 * self.draw(d_out, seed=4),
        }
        if self.transcoder:
            named["b_pre"] = 0.25 * self.draw(D, seed=6)
        if self.grid:
            named["W_enc"][F // 2 :] = named["W_enc"][: F // 2]
            named["b_enc"][F // 2 :] = named["b_enc"][: F // 2]
        return named

    def batch(self) -> Batch:
        x_BD = self.draw(self.rows, D, seed=5)
        return Batch(x_BD, self.draw(self.rows, D + 4, seed=7) if self.transcoder else x_BD)

    def draw(self, *shape: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(100 * self.seed + seed)
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return ((drawn * 2).round() / 2 if self.grid else drawn).to(self.dtype)

    def state(self) -> Tensors:
        threshold = torch.tensor(0.0, dtype=torch.float64)
        frequency_F = torch.full((F,), 0.1, dtype=self.dtype)
        variance = torch.tensor(5.0, dtype=self.dtype)
        return {"variance": variance, "threshold": threshold, "frequency": frequency_F}

    def context(self, spec: ArchitectureSpec) -> Context:
        architecture: Any = ARCHITECTURES[spec.name]
        scheduled = architecture.scheduled(spec, 20, 50)
        changes = {
            "step": 20,
            "encoder_dtype": self.encoder_dtype,
            "scheduled": scheduled,
            "dead_bound": self.bound,
        }
        return context(F, self.dead, **changes)

    def fast(self, spec: Any, batch: Batch | None = None) -> StepOutput:  # noqa: ANN401 - of any architecture
        params, batch = self.params(), batch or self.batch()
        assert sparse_step.possible(params, batch)
        architecture = ARCHITECTURES[spec.name]
        return architecture.gradients(spec, params, self.state(), batch, self.context(spec))

    def plain(self, spec: Any) -> StepOutput:  # noqa: ANN401 - of any architecture
        return self.by_autograd(spec, ARCHITECTURES[spec.name].loss)

    def sparse(self, spec: Any) -> StepOutput:  # noqa: ANN401 - of any architecture
        with mock.patch.object(entries, "usable", return_value=False):
            return self.by_autograd(spec, ARCHITECTURES[spec.name].autograd_loss)

    def by_autograd(self, spec: Any, loss: Callable[..., LossOutput]) -> StepOutput:  # noqa: ANN401 - of any architecture
        batch, ctx = self.batch(), self.context(spec)
        return by_autograd(
            lambda leaves: loss(spec, leaves, self.state(), batch, ctx), self.params()
        )


def agree(fast: StepOutput, plain: StepOutput, params: Tensors, tolerance: float) -> None:
    """Gradients within `tolerance` of their largest; all else as close, and counts equal."""
    assert fast.grads.keys() == params.keys()
    for name in params:
        expected = plain.grads[name]
        error = (fast.grads[name] - expected).abs().max()
        assert float(error) <= tolerance * float(expected.abs().max()), name
    assert fast.terms.keys() == plain.terms.keys()
    scalars = {**fast.terms, "loss": fast.loss, "error": fast.stats.squared_error, **fast.state}
    others = {**plain.terms, "loss": plain.loss, "error": plain.stats.squared_error, **plain.state}
    for name, value in scalars.items():
        torch.testing.assert_close(value, others[name], rtol=tolerance, atol=tolerance)
    assert torch.equal(fast.stats.fired_F, plain.stats.fired_F)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("changes", [{}, {"transcoder": True}, {"dead": []}], ids=str)
def test_float64_gradients_are_those_of_the_loss(
    spec: ArchitectureSpec, changes: dict[str, Any]
) -> None:
    case = Case(**changes)
    agree(case.fast(spec), case.plain(spec), case.params(), 1e-8)
    agree(case.sparse(spec), case.plain(spec), case.params(), 1e-8)


@pytest.mark.parametrize("bound", [len(DEAD), len(DEAD) + 2, 10 * F])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_bound_in_place_of_the_count_changes_nothing(spec: ArchitectureSpec, bound: int) -> None:
    """Where an accelerator is not waited for, more latents may be listed than are dead."""
    case = Case(bound=bound)
    agree(case.fast(spec), Case().plain(spec), case.params(), 1e-8)
    agree(case.sparse(spec), Case().plain(spec), case.params(), 1e-8)
    agree(case.plain(spec), Case().plain(spec), case.params(), 1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_bound_of_zero_leaves_auxk_out_exactly(spec: ArchitectureSpec) -> None:
    counted, known = Case(dead=[]).fast(spec), Case(dead=[], bound=0).fast(spec)
    assert torch.equal(counted.loss, known.loss)
    for name, gradient in counted.grads.items():
        assert torch.equal(gradient, known.grads[name]), name
    # Some may be dead by the bound and none is.
    agree(Case(dead=[], bound=9).fast(spec), counted, Case().params(), 1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_float32_gradients_are_those_of_the_loss(spec: ArchitectureSpec) -> None:
    case = Case(dtype=torch.float32)
    agree(case.fast(spec), case.plain(spec), case.params(), 1e-5)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != EVERY_POSITIVE], ids=str)
def test_after_a_bfloat16_gemm_they_are_those_of_the_same_choice(spec: ArchitectureSpec) -> None:
    """Rounding of the GEMM decides nothing here: the spare candidates hold the exact choice.

    Where every positive entry is kept, there are none to spare, and its sign is the GEMM's.
    """
    case = Case(dtype=torch.float32, encoder_dtype=torch.bfloat16)
    exact = Case(dtype=torch.float32).plain(spec)
    agree(case.fast(spec), exact, case.params(), 1e-5)
    agree(case.sparse(spec), exact, case.params(), 1e-5)


@given(
    spec=st.sampled_from(SPECS),
    seed=st.integers(0, 10_000),
    rows=st.sampled_from([1, 2, 33, 300]),
    shift=st.sampled_from([0.0, -2.0, -6.0]),
    grid=st.booleans(),
)
@settings(max_examples=60)
def test_with_ties_few_positive_entries_and_any_number_of_rows(
    spec: ArchitectureSpec, seed: int, rows: int, shift: float, grid: bool
) -> None:
    case = Case(rows=rows, seed=seed, shift=shift, grid=grid)
    agree(case.fast(spec), case.plain(spec), case.params(), 1e-8)
    agree(case.sparse(spec), case.plain(spec), case.params(), 1e-8)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_step_is_the_same_bit_for_bit_on_any_number_of_threads(spec: ArchitectureSpec) -> None:
    """But for the GEMM, which is torch's: two threads sum it in the same order at this size."""
    case, before = Case(rows=300, dtype=torch.float32), torch.get_num_threads()
    outputs: list[StepOutput] = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        outputs.append(case.fast(spec))
    torch.set_num_threads(before)
    for other in outputs[1:]:
        assert torch.equal(outputs[0].loss, other.loss)
        for name in case.params():
            left, right = outputs[0].grads[name], other.grads[name]
            assert torch.equal(left, right), name


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["x", "target", "W_enc", "b_enc", "b_dec"])
@pytest.mark.parametrize("encoder_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec", [SPECS[1], SPECS[3], SPECS[6], SPECS[11]], ids=str)
def test_what_is_not_finite_shows(
    spec: ArchitectureSpec, bad: float, where: str, encoder_dtype: torch.dtype
) -> None:
    """In the loss, or in a gradient, which makes the next loss NaN."""
    case = Case(dtype=torch.float32, transcoder=True, encoder_dtype=encoder_dtype)
    batch, params = case.batch(), case.params()
    found = {"x": batch.x_BD, "target": batch.target_BO, **params}[where]
    found.view(-1)[3] = bad
    architecture: Any = ARCHITECTURES[spec.name]
    output = architecture.gradients(spec, params, case.state(), batch, case.context(spec))
    shown = [output.loss, *output.grads.values()]
    assert not all(bool(torch.isfinite(value).all()) for value in shown)


def test_what_cannot_run_in_compiled_loops_is_left_to_autograd() -> None:
    case, spec = Case(), SPECS[1]
    with mock.patch.object(sparse_step, "usable", return_value=False):
        assert not sparse_step.possible(case.params(), case.batch())
        left = FastTopK().gradients(
            TopKSpec(k=5, **AUX), case.params(), case.state(), case.batch(), case.context(spec)
        )
    agree(case.fast(spec), left, case.params(), 1e-8)
    strided = replace(case.batch(), x_BD=case.draw(D, 40, seed=5).T)
    assert not sparse_step.possible(case.params(), strided)
