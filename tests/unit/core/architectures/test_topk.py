"""TopK against the paper's loss written out row by row, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from tests.fakes.training import context, features_of, reconstruction_of
from torch import Tensor

from saeserve.core.architectures.base import by_autograd
from saeserve.core.architectures.contract import Batch, Dimensions, StepOutput, Tensors
from saeserve.core.architectures.topk.fast import FastTopK
from saeserve.core.architectures.topk.loss import TopK
from saeserve.core.specs.architectures.topk import TopKSpec
from saeserve.errors import DataError, SpecError

D, F, ROWS = 6, 20, 9
DEAD = [1, 4, 5, 13, 17, 19]
PLAIN = TopKSpec(k=3, k_aux=4, auxk_coefficient=0.0)
AUXK = TopKSpec(k=3, k_aux=4)
MANY_DEAD_WANTED = TopKSpec(k=3, k_aux=16)
MULTI = TopKSpec(k=3, k_aux=4, auxk_coefficient=0.0, multi_topk_coefficient=1 / 8)
ALL = TopKSpec(k=3, k_aux=4, multi_topk_coefficient=1 / 8)
WIDE_MULTI = TopKSpec(k=7, k_aux=4, multi_topk_coefficient=1 / 8)


@dataclass(frozen=True)
class Case:
    params: Tensors
    state: Tensors
    batch: Batch

    def step(
        self, spec: TopKSpec, dead: list[int] = DEAD, dead_bound: int | None = None
    ) -> StepOutput:
        ctx = context(F, dead, dead_bound=dead_bound)
        return FastTopK().gradients(spec, self.params, self.state, self.batch, ctx)

    def as_written(self, spec: TopKSpec) -> StepOutput:
        ctx = context(F, DEAD)
        return by_autograd(
            lambda leaves: TopK().loss(spec, leaves, self.state, self.batch, ctx), self.params
        )


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
    return Case(params, {"variance": torch.tensor(5.0, dtype=torch.float64)}, Batch(x_BD, x_BD))


def of(output: StepOutput, name: str) -> Tensor:
    gradient = output.grads[name]
    assert isinstance(gradient, Tensor)
    return gradient


def largest(values_F: Tensor, n: int, among: list[int]) -> list[int]:
    values = [float(value) for value in values_F.detach()]
    return sorted(among, key=lambda i: -values[i])[:n]


def features(h_F: Tensor, chosen: list[int]) -> Tensor:
    mask_F = torch.zeros(F, dtype=torch.float64)
    mask_F[chosen] = 1.0
    return mask_F * torch.where(h_F > 0, h_F, 0.0)


def written(
    spec: TopKSpec, p: Tensors, variance: Tensor, x_BD: Tensor, dead: list[int]
) -> dict[str, Tensor]:
    """Every term, row by row, as the module's docstring says; k_aux at most the dead latents."""
    terms = {"reconstruction": torch.zeros((), dtype=torch.float64)}
    residuals: list[Tensor] = []
    auxiliary: list[Tensor] = []
    for x_D in x_BD:
        h_F = p["W_enc"] @ (x_D - p["b_dec"]) + p["b_enc"]
        f_F = features(h_F, largest(h_F, spec.k, list(range(F))))
        e_D = x_D - (p["b_dec"] + f_F @ p["W_dec"])
        terms["reconstruction"] = terms["reconstruction"] + (e_D @ e_D) / ROWS / variance
        if spec.multi_topk_coefficient:
            wide_F = features(h_F, largest(h_F, min(4 * spec.k, F), list(range(F))))
            g_D = x_D - (p["b_dec"] + wide_F @ p["W_dec"])
            share = spec.multi_topk_coefficient * (g_D @ g_D) / ROWS / variance
            terms["multi_topk"] = terms.get("multi_topk", torch.zeros(())) + share
        residuals.append(e_D.detach())
        auxiliary.append(features(h_F, largest(h_F, spec.k_aux or 0, dead)) @ p["W_dec"])
    if spec.auxk_coefficient:
        e_BD, a_BD = torch.stack(residuals), torch.stack(auxiliary)
        spread = sum((e_D - e_BD.mean(0)) @ (e_D - e_BD.mean(0)) for e_D in e_BD)
        error = sum((e_D - a_D) @ (e_D - a_D) for e_D, a_D in zip(e_BD, a_BD, strict=True))
        terms["auxk"] = spec.auxk_coefficient * torch.as_tensor(error / spread)
    return terms


@pytest.mark.parametrize("dense_above", [0.0, 100.0], ids=["dense", "scattered"])
@pytest.mark.parametrize("spec", [PLAIN, AUXK, MANY_DEAD_WANTED, MULTI, ALL, WIDE_MULTI], ids=str)
def test_loss_and_gradients_are_those_of_the_written_loss(
    case: Case, spec: TopKSpec, dense_above: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saeserve.core.architectures.active.entries.DENSE_ABOVE", dense_above)
    leaves = {name: value.clone().requires_grad_() for name, value in case.params.items()}
    terms = written(spec, leaves, case.state["variance"], case.batch.x_BD, DEAD)
    loss = torch.stack(list(terms.values())).sum()
    expected = torch.autograd.grad(loss, list(leaves.values()))
    for output in (case.step(spec), case.as_written(spec)):
        assert output.terms.keys() == terms.keys()
        for name, term in terms.items():
            assert float(output.terms[name]) == pytest.approx(float(term.detach()), rel=1e-12)
        for name, gradient in zip(leaves, expected, strict=True):
            found = output.grads[name]
            assert float((found - gradient).abs().max() / gradient.abs().max()) <= 1e-8, name


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_finite_differences_with_the_detached_residual_frozen(case: Case, name: str) -> None:
    """The selections do not change within the step: pre-activations are far apart."""
    direction = draw(*case.params[name].shape, seed=7)

    def moved(by: float) -> Case:
        return replace(case, params=case.params | {name: case.params[name] + by * direction})

    def value(by: float) -> float:
        shifted = moved(by)
        output = shifted.step(AUXK)
        frozen = _auxk_against(shifted, residual_BD)
        return float(output.terms["reconstruction"]) + AUXK.auxk_coefficient * frozen

    residual_BD = _residual(case)
    step = 1e-6
    numeric = (value(step) - value(-step)) / (2 * step)
    exact = float((of(case.step(AUXK), name) * direction).sum())
    assert numeric == pytest.approx(exact, rel=1e-6)


def _residual(case: Case) -> Tensor:
    form = FastTopK().evaluation_form(AUXK, case.params, case.state)
    return case.batch.x_BD - reconstruction_of(form, case.batch.x_BD)


def _auxk_against(case: Case, residual_BD: Tensor) -> float:
    p = case.params
    total = 0.0
    for x_D, e_D in zip(case.batch.x_BD, residual_BD, strict=True):
        h_F = p["W_enc"] @ (x_D - p["b_dec"]) + p["b_enc"]
        a_D = features(h_F, largest(h_F, AUXK.k_aux or 0, DEAD)) @ p["W_dec"]
        total += float((e_D - a_D) @ (e_D - a_D))
    return total / float((residual_BD - residual_BD.mean(0)).square().sum())


def test_auxk_reaches_the_encoder_of_dead_latents_and_of_no_others(case: Case) -> None:
    with_auxk, without = case.step(AUXK), case.step(PLAIN)
    for name in ("W_enc", "b_enc", "W_dec"):
        change = (of(with_auxk, name) - of(without, name)).abs().reshape(F, -1).amax(dim=1)
        alive = [i for i in range(F) if i not in DEAD]
        assert float(change[DEAD].max()) > 1e-4, name
        # The residual is detached: latents that are alive are not pulled along.
        assert float(change[alive].max()) == 0.0, name


def test_auxk_lets_no_negative_pre_activation_through(case: Case) -> None:
    params = case.params | {"b_enc": case.params["b_enc"].clone()}
    params["b_enc"][DEAD] = -100.0
    pushed = replace(case, params=params)
    output, plain = pushed.step(AUXK), pushed.step(PLAIN)
    residual_BD = _residual(pushed)
    spread = (residual_BD - residual_BD.mean(0)).square().sum()
    expected = AUXK.auxk_coefficient * residual_BD.square().sum() / spread
    torch.testing.assert_close(output.terms["auxk"], expected, rtol=1e-12, atol=0)
    for name in case.params:
        assert torch.equal(of(output, name), of(plain, name)), name


def test_without_dead_latents_auxk_is_zero(case: Case) -> None:
    assert float(case.step(AUXK, dead=[]).terms["auxk"]) == 0.0


@pytest.mark.parametrize("bound", [6, 7, 10**6])
def test_surplus_auxiliary_latents_add_exactly_nothing(case: Case, bound: int) -> None:
    """What an accelerator does, which knows at most a bound of the number of dead latents."""
    exact = case.step(MANY_DEAD_WANTED)
    surplus = case.step(MANY_DEAD_WANTED, dead_bound=bound)
    torch.testing.assert_close(surplus.loss, exact.loss, rtol=1e-14, atol=0)
    for name in case.params:
        torch.testing.assert_close(of(surplus, name), of(exact, name), rtol=1e-12, atol=1e-15)


def test_a_residual_without_variance_gives_zero(case: Case) -> None:
    params = {name: torch.zeros_like(value) for name, value in case.params.items()}
    same_BD = torch.ones(4, D, dtype=torch.float64)
    output = replace(case, params=params, batch=Batch(same_BD, same_BD)).step(AUXK)
    assert float(output.terms["auxk"]) == 0.0
    assert all(bool(torch.isfinite(of(output, name)).all()) for name in params)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_never_hidden(case: Case, bad: float) -> None:
    x_BD = case.batch.x_BD.clone()
    x_BD[2, 3] = bad
    output = replace(case, batch=Batch(x_BD, x_BD)).step(AUXK)
    assert math.isnan(float(output.terms["auxk"]))
    assert not math.isfinite(float(output.loss))


def test_multi_topk_reaches_the_encoder_beyond_k(case: Case) -> None:
    one = replace(case, batch=Batch(case.batch.x_BD[:1], case.batch.target_BO[:1]))
    reached = {
        spec.multi_topk_coefficient: int((of(one.step(spec), "b_enc") != 0).sum())
        for spec in (PLAIN, MULTI)
    }
    assert reached[0.0] <= 3 < reached[1 / 8] <= 12


def test_a_silent_slot_among_the_top_k_passes_no_gradient(case: Case) -> None:
    params = case.params | {"b_enc": torch.full((F,), -100.0, dtype=torch.float64)}
    output = replace(case, params=params).step(PLAIN)
    assert float(of(output, "W_enc").abs().max()) == 0.0
    assert float(of(output, "W_dec").abs().max()) == 0.0
    assert int(output.stats.fired_F.sum()) == 0


def test_fired_counts_the_rows_of_the_main_selection_only(case: Case) -> None:
    form = FastTopK().evaluation_form(ALL, case.params, case.state)
    expected_F = (features_of(form, case.batch.x_BD) != 0).sum(dim=0)
    assert torch.equal(case.step(ALL).stats.fired_F, expected_F)


def test_the_evaluation_form_has_absorbed_the_subtraction_of_b_dec(case: Case) -> None:
    form = FastTopK().evaluation_form(PLAIN, case.params, case.state)
    p = case.params
    x_D = case.batch.x_BD[0]
    torch.testing.assert_close(
        form.W_enc_FD @ x_D + form.b_enc_F, p["W_enc"] @ (x_D - p["b_dec"]) + p["b_enc"]
    )
    assert form.k == 3
    assert form.threshold_F is None


def test_initial_parameters(case: Case) -> None:
    dims = Dimensions(D, D, F)
    sample = draw(500, D, seed=8) + 3.0
    params, state = FastTopK().initialise(AUXK, dims, sample, sample, seed=1)
    assert torch.equal(params["W_enc"], 0.3 * params["W_dec"])
    norms = params["W_dec"].square().sum(dim=1).sqrt()
    torch.testing.assert_close(norms, torch.ones(F, dtype=torch.float64))
    assert not params["b_enc"].any()
    away_ND = sample - params["b_dec"]
    pulls_ND = away_ND / away_ND.square().sum(dim=1, keepdim=True).sqrt()
    assert float(pulls_ND.mean(dim=0).abs().max()) < 1e-5
    expected = (sample - sample.mean(0)).square().sum(dim=1).mean()
    torch.testing.assert_close(state["variance"], expected)
    assert AUXK.sample_rows(F) == 32_768
    again, _ = FastTopK().initialise(AUXK, dims, sample, sample, seed=1)
    other, _ = FastTopK().initialise(AUXK, dims, sample, sample, seed=2)
    assert torch.equal(again["W_dec"], params["W_dec"])
    assert not torch.equal(other["W_dec"], params["W_dec"])


def test_b_dec_may_start_at_the_mean() -> None:
    sample = draw(50, D, seed=8) + 3.0
    spec = TopKSpec(k=3, b_dec_init="mean")
    params, _ = FastTopK().initialise(spec, Dimensions(D, D, F), sample, sample, seed=1)
    torch.testing.assert_close(params["b_dec"], sample.mean(dim=0))


def test_a_transcoder_starts_untied_with_a_bias_for_its_input() -> None:
    sample, target = draw(50, D, seed=8) + 3.0, draw(50, 7, seed=9) - 2.0
    params, state = FastTopK().initialise(AUXK, Dimensions(D, 7, F), sample, target, seed=1)
    assert (params["W_enc"].shape, params["W_dec"].shape) == ((F, D), (F, 7))
    assert float((params["b_pre"] - sample.mean(dim=0)).abs().max()) < 0.5
    assert float((params["b_dec"] - target.mean(dim=0)).abs().max()) < 0.5
    expected = (target - target.mean(0)).square().sum(dim=1).mean()
    torch.testing.assert_close(state["variance"], expected)
    square, _ = FastTopK().initialise(AUXK, Dimensions(D, D, F), sample, -sample, seed=1)
    assert not torch.equal(square["W_enc"], square["W_dec"])


def test_what_cannot_be_initialised_is_refused() -> None:
    flat = torch.ones(50, D)
    with pytest.raises(DataError, match=r"variance of the initial sample is 0\.0"):
        FastTopK().initialise(AUXK, Dimensions(D, D, F), flat, flat, seed=1)


def test_an_unresolved_spec_is_refused(case: Case) -> None:
    with pytest.raises(SpecError, match=r"train\.topk\.k_aux: is not resolved"):
        case.step(TopKSpec(k=3))
