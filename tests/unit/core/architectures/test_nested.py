"""BatchTopK and Matryoshka against their loss written out entry by entry, in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tests.fakes.training import context, features_of, reconstruction_of
from torch import Tensor

from saeserve.core.architectures.base import by_autograd
from saeserve.core.architectures.contract import Batch, Dimensions, StepOutput, Tensors
from saeserve.core.architectures.topk.batchtopk import BatchTopK
from saeserve.core.architectures.topk.fast import FastBatchTopK, FastMatryoshka
from saeserve.core.architectures.topk.matryoshka import Matryoshka
from saeserve.core.architectures.topk.threshold import ByBatch
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec
from saeserve.errors import DataError, SpecError

D, F, ROWS = 6, 20, 9
DEAD = [1, 4, 5, 13, 17, 19]
OFF: dict[str, Any] = {"k": 3, "k_aux": 4, "auxk_coefficient": 0.0}
ON: dict[str, Any] = {"k": 3, "k_aux": 4}
WIDTHS = (2, 7, F)
PLAIN, AUXK = BatchTopKSpec(**OFF), BatchTopKSpec(**ON)
BROKEN_K = BatchTopKSpec(k=2.4, k_aux=4)
EVERYTHING = BatchTopKSpec(k=F, k_aux=4)
NESTED = MatryoshkaSpec(**OFF, widths=WIDTHS)
DETACHED = MatryoshkaSpec(**OFF, widths=WIDTHS, detach_inner=True)
DETACHED_AUXK = MatryoshkaSpec(**ON, widths=WIDTHS, detach_inner=True)
SINGLE = MatryoshkaSpec(**ON, widths=(F,), detach_inner=True)
SPECS = [PLAIN, AUXK, BROKEN_K, EVERYTHING, NESTED, DETACHED, DETACHED_AUXK, SINGLE]


STATE = {"variance": torch.tensor(5.0).double(), "threshold": torch.tensor(0.0).double()}


@dataclass(frozen=True)
class Case:
    params: Tensors
    batch: Batch

    def step(self, spec: BatchTopKSpec, dead: list[int] = DEAD, **changes: Any) -> StepOutput:  # noqa: ANN401 - any field of Context
        ctx = context(F, dead, **changes)
        return architecture(spec).gradients(spec, self.params, STATE, self.batch, ctx)

    def as_written(self, spec: BatchTopKSpec) -> StepOutput:
        ctx = context(F, DEAD)
        known: dict[str, Any] = {"batchtopk": BatchTopK(), "matryoshka": Matryoshka()}
        return by_autograd(
            lambda leaves: known[spec.name].loss(spec, leaves, STATE, self.batch, ctx), self.params
        )


def architecture(spec: BatchTopKSpec) -> ByBatch[Any]:
    return FastMatryoshka() if isinstance(spec, MatryoshkaSpec) else FastBatchTopK()


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def case() -> Case:
    params = {
        "W_enc": draw(F, D, seed=1),
        "b_enc": 0.3 * draw(F, seed=2),
        "W_dec": draw(F, D, seed=3),
        "b_dec": 0.3 * draw(D, seed=4),
    }
    x_BD = draw(ROWS, D, seed=5)
    return Case(params, Batch(x_BD, x_BD))


def of(output: StepOutput, name: str) -> Tensor:
    gradient = output.grads[name]
    assert isinstance(gradient, Tensor)
    return gradient


def pre_activations(p: Tensors, x_BD: Tensor) -> Tensor:
    return (x_BD - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]


def kept(h_BF: Tensor, n: int) -> list[tuple[int, int]]:
    """(row, latent) of the n largest of all, where they are positive."""
    values = [(float(h_BF[b, i].detach()), b, i) for b in range(ROWS) for i in range(F)]
    return [(b, i) for value, b, i in sorted(values, reverse=True)[:n] if value > 0]


def written(spec: BatchTopKSpec, p: Tensors, x_BD: Tensor, dead: list[int]) -> dict[str, Tensor]:
    """Every term as the module's docstring says, one entry and one prefix at a time."""
    h_BF = pre_activations(p, x_BD)
    entries = kept(h_BF, round(spec.k * ROWS))
    nested = isinstance(spec, MatryoshkaSpec)
    widths = spec.widths if isinstance(spec, MatryoshkaSpec) else (F,)
    detach = isinstance(spec, MatryoshkaSpec) and spec.detach_inner
    errors: list[Tensor] = []
    residuals: list[Tensor] = []
    for g, width in enumerate(widths):
        inner = widths[g - 1] if g else 0
        error = torch.zeros((), dtype=torch.float64)
        residuals = []
        for b in range(ROWS):
            before_D, added_D = p["b_dec"], torch.zeros(D, dtype=torch.float64)
            for row, i in entries:
                if row == b and i < inner:
                    before_D = before_D + h_BF[b, i] * p["W_dec"][i]
                if row == b and inner <= i < width:
                    added_D = added_D + h_BF[b, i] * p["W_dec"][i]
            if nested and detach and 0 < g < len(widths) - 1:
                before_D = before_D.detach()
            e_D = x_BD[b] - (before_D + added_D)
            error = error + e_D @ e_D
            residuals.append(e_D.detach())
        errors.append(error / ROWS / 5.0)
    terms = {"reconstruction": torch.stack(errors).sum() / len(widths)}
    if spec.auxk_coefficient:
        terms["auxk"] = spec.auxk_coefficient * _auxk(p, h_BF, torch.stack(residuals), dead)
    return terms


def _auxk(p: Tensors, h_BF: Tensor, e_BD: Tensor, dead: list[int]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for h_F, e_D in zip(h_BF, e_BD, strict=True):
        largest = sorted(dead, key=lambda i: -float(h_F[i].detach()))[:4]
        a_D = sum((h_F[i] * p["W_dec"][i] for i in largest if h_F[i] > 0), torch.zeros(D).double())
        total = total + (e_D - a_D) @ (e_D - a_D)
    return total / (e_BD - e_BD.mean(0)).square().sum()


@pytest.mark.parametrize("dense_above", [0.0, 100.0], ids=["dense", "sorted"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_loss_and_gradients_are_those_of_the_written_loss(
    case: Case, spec: BatchTopKSpec, dense_above: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saeserve.core.architectures.active.entries.DENSE_ABOVE", dense_above)
    leaves = {name: value.clone().requires_grad_() for name, value in case.params.items()}
    terms = written(spec, leaves, case.batch.x_BD, DEAD)
    loss = torch.stack(list(terms.values())).sum()
    expected = torch.autograd.grad(loss, list(leaves.values()))
    for output in (case.step(spec), case.as_written(spec)):
        assert output.terms.keys() == terms.keys()
        for name, term in terms.items():
            assert float(output.terms[name]) == pytest.approx(float(term.detach()), rel=1e-12)
        for name, gradient in zip(leaves, expected, strict=True):
            found = output.grads[name]
            assert float((found - gradient).abs().max() / gradient.abs().max()) <= 1e-8, name


def test_one_prefix_is_batchtopk_bit_for_bit(case: Case) -> None:
    left, right = case.step(AUXK), case.step(SINGLE)
    assert torch.equal(left.loss, right.loss)
    for name in case.params:
        assert torch.equal(of(left, name), of(right, name)), name


def test_k_is_a_mean_over_the_micro_batch_and_rows_share_it_unevenly(case: Case) -> None:
    assert int(case.step(PLAIN).stats.fired_F.sum()) == 3 * ROWS
    h_BF = pre_activations(case.params, case.batch.x_BD)
    per_row = [sum(row == b for row, _ in kept(h_BF, 3 * ROWS)) for b in range(ROWS)]
    assert len(set(per_row)) > 1
    half = replace(case, batch=Batch(case.batch.x_BD[:4], case.batch.target_BO[:4]))
    assert int(half.step(PLAIN).stats.fired_F.sum()) == 3 * 4


def test_the_calibrated_threshold_makes_the_same_choice_on_its_batch(case: Case) -> None:
    for spec in (AUXK, DETACHED_AUXK):
        output = case.step(spec)
        form = architecture(spec).evaluation_form(spec, case.params, output.state)
        fired_F = (features_of(form, case.batch.x_BD) != 0).sum(dim=0)
        assert torch.equal(fired_F, output.stats.fired_F)
        assert form.k is None
        assert form.threshold_F is not None
        assert torch.equal(form.threshold_F, form.threshold_F[:1].expand(F))


def test_with_too_few_positive_entries_all_are_kept_and_the_threshold_is_zero(case: Case) -> None:
    params = case.params | {"b_enc": case.params["b_enc"] - 2.0}
    output = replace(case, params=params).step(EVERYTHING)
    positive = int((pre_activations(params, case.batch.x_BD) > 0).sum())
    assert 0 < positive < F * ROWS / 2
    assert int(output.stats.fired_F.sum()) == positive
    assert float(output.state["threshold"]) == 0.0


def test_a_silent_batch_has_no_gradient_but_for_b_dec(case: Case) -> None:
    params = case.params | {"b_enc": torch.full((F,), -100.0).double()}
    output = replace(case, params=params).step(DETACHED)
    assert int(output.stats.fired_F.sum()) == 0
    assert [name for name in params if bool(of(output, name).any())] == ["b_dec"]


def test_the_threshold_is_a_running_mean_and_then_an_exponential_one(case: Case) -> None:
    """Weight 1/n of micro-batch n, never less than one over 5 % of the steps."""
    level = float(case.step(PLAIN, step=0).state["threshold"])
    assert level > 0
    for step, weight in ((0, 1.0), (1, 0.5), (9, 0.1), (10, 0.1), (150, 0.1)):
        found = float(case.step(PLAIN, step=step, steps=200).state["threshold"])
        assert found == pytest.approx(weight * level, rel=1e-12), step


class TwoRanks:
    """Another rank that sends the same as this one, and a level of 1 in place of its own."""

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        other = value.clone()
        other[0] = 1.0
        return value + other


def test_ranks_share_one_threshold(case: Case) -> None:
    own = float(case.step(PLAIN).state["threshold"])
    both = case.step(PLAIN, collective=TwoRanks()).state["threshold"]
    assert float(both) == pytest.approx((own + 1.0) / 2, rel=1e-12)


def test_auxk_reaches_the_encoder_of_dead_latents_and_of_no_others(case: Case) -> None:
    for on, off in ((AUXK, PLAIN), (DETACHED_AUXK, DETACHED)):
        with_auxk, without = case.step(on), case.step(off)
        for name in ("W_enc", "b_enc", "W_dec"):
            change = (of(with_auxk, name) - of(without, name)).abs().reshape(F, -1).amax(dim=1)
            alive = [i for i in range(F) if i not in DEAD]
            assert float(change[DEAD].max()) > 1e-4, name
            # The residual is detached: latents that are alive are not pulled along.
            assert float(change[alive].max()) < 1e-14, name


def test_auxk_lets_no_negative_pre_activation_through(case: Case) -> None:
    params = case.params | {"b_enc": case.params["b_enc"].clone()}
    params["b_enc"][DEAD] = -100.0
    pushed = replace(case, params=params)
    output, plain = pushed.step(AUXK), pushed.step(PLAIN)
    form = FastBatchTopK().evaluation_form(AUXK, params, output.state)
    residual_BD = case.batch.x_BD - reconstruction_of(form, case.batch.x_BD)
    spread = (residual_BD - residual_BD.mean(0)).square().sum()
    expected = AUXK.auxk_coefficient * residual_BD.square().sum() / spread
    torch.testing.assert_close(output.terms["auxk"], expected, rtol=1e-12, atol=0)
    for name in params:
        torch.testing.assert_close(of(output, name), of(plain, name), rtol=0, atol=1e-15)


def test_a_detached_prefix_reaches_only_what_it_adds(case: Case) -> None:
    """The loss of the middle prefix: with its share taken out, the others' groups keep theirs."""
    p, x_BD = case.params, case.batch.x_BD
    wide = MatryoshkaSpec(**OFF, widths=(2, F), detach_inner=True)
    three, two = case.step(DETACHED), case.step(wide)
    # Means over 3 and 2 prefixes; the sums differ by the middle prefix alone.
    change = 3 * of(three, "b_enc") - 2 * of(two, "b_enc")
    added = slice(2, 7)
    assert float(change[:2].abs().max()) < 1e-12
    assert float(change[7:].abs().max()) < 1e-12
    assert float(change[added].abs().max()) > 1e-3
    assert float(pre_activations(p, x_BD).max()) > 0


def test_k_is_annealed_linearly_and_stays() -> None:
    spec = BatchTopKSpec(k=10, k_initial=30, k_anneal_fraction=0.5)
    found = [FastBatchTopK().scheduled(spec, step, 100) for step in (0, 25, 50, 99)]
    assert [values["k"] for values in found] == [30, 20, 10, 10]
    assert FastBatchTopK().scheduled(PLAIN, 3, 100) == {}
    at_once = spec.model_copy(update={"k_anneal_fraction": 0.0})
    assert FastBatchTopK().scheduled(at_once, 0, 100) == {"k": 10}


def test_the_scheduled_k_is_what_is_kept(case: Case) -> None:
    assert int(case.step(PLAIN, scheduled={"k": 2.0}).stats.fired_F.sum()) == 2 * ROWS


def test_what_cannot_be_initialised_is_refused() -> None:
    flat = torch.ones(50, D)
    with pytest.raises(DataError, match=r"variance of the initial sample is 0\.0"):
        FastBatchTopK().initialise(AUXK, Dimensions(D, D, F), flat, flat, seed=1)


def test_unresolved_specs_are_refused(case: Case) -> None:
    with pytest.raises(SpecError, match=r"train\.batchtopk\.k_aux: is not resolved"):
        case.step(BatchTopKSpec(k=3))
    with pytest.raises(SpecError, match=r"train\.matryoshka\.widths: is not resolved"):
        case.step(MatryoshkaSpec(k=3))


def test_frequencies_are_counted_and_sorted_at_their_steps(case: Case) -> None:
    spec = MatryoshkaSpec(
        **OFF, widths=WIDTHS, sort_by_frequency=True, sort_every_steps=5, detach_inner=True
    )
    params, state = FastMatryoshka().initialise(
        spec, Dimensions(D, D, F), case.batch.x_BD, case.batch.x_BD, seed=1
    )
    assert state["frequency"].shape == (F,)
    output = FastMatryoshka().gradients(spec, params, state, case.batch, context(F))
    expected_F = output.stats.fired_F.double() / ROWS
    torch.testing.assert_close(output.state["frequency"], expected_F)
    found = FastMatryoshka().permutation(spec, output.state, 5)
    assert found is not None
    sorted_F = expected_F[found.order_F]
    assert bool((sorted_F.diff() <= 0).all())
    ties = sorted_F.diff() == 0
    assert bool((found.order_F.diff()[ties] > 0).all())
    assert FastMatryoshka().permutation(spec, output.state, 6) is None
    assert FastMatryoshka().permutation(DETACHED, output.state, 5) is None
