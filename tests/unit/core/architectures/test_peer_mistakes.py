"""Mistakes found in other libraries' TopK family and training loops: a check for each, which ours
passes and the mistaken form, written out here, fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tests.fakes.training import (
    FolderSink,
    context,
    run_all,
    run_until,
    tiny_setup,
    tiny_spec,
)
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Tensors
from saeserve.core.architectures.topk.fast import FastMatryoshka, FastTopK
from saeserve.core.data.source import ActivationSource
from saeserve.core.ops.adam import AdamSettings, Moments, adam_step_
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec
from saeserve.core.specs.architectures.topk import TopKSpec
from saeserve.core.training import dead
from saeserve.core.training.trainer import Trainer

D, F, ROWS, K, K_AUX = 6, 20, 9, 3, 4
DEAD = [1, 4, 5, 13, 17, 19]
ALIVE = [i for i in range(F) if i not in DEAD]
VARIANCE = 5.0


@dataclass(frozen=True)
class Result:
    """Terms and gradients of one step."""

    terms: dict[str, float]
    grads: Tensors

    def moved(self, name: str, other: Result) -> Tensor:
        """[F]: by how much two gradients differ at each latent."""
        return (self.grads[name] - other.grads[name]).abs().reshape(F, -1).amax(dim=1)


Step = Callable[[Tensors, Tensor, TopKSpec], Result]
AUXK = TopKSpec(k=K, k_aux=K_AUX)
PLAIN = TopKSpec(k=K, k_aux=K_AUX, auxk_coefficient=0.0)
MULTI = TopKSpec(k=K, k_aux=K_AUX, auxk_coefficient=0.0, multi_topk_coefficient=1 / 8)


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def params() -> Tensors:
    return {
        "W_enc": draw(F, D, seed=1),
        "b_enc": 0.3 * draw(F, seed=2),
        "W_dec": draw(F, D, seed=3),
        "b_dec": 0.3 * draw(D, seed=4),
    }


def rows() -> Tensor:
    return draw(ROWS, D, seed=5)


def ours(p: Tensors, x_BD: Tensor, spec: TopKSpec) -> Result:
    state = {"variance": torch.tensor(VARIANCE).double()}
    output = FastTopK().gradients(spec, p, state, Batch(x_BD, x_BD), context(F, DEAD))
    grads = {name: output.grads[name] for name in p}
    return Result({name: float(term) for name, term in output.terms.items()}, grads)


def unmasked(value: Tensor) -> Tensor:
    """ReLU whose derivative is 1 everywhere."""
    return value + (value.relu() - value).detach()


@dataclass(frozen=True)
class Written:
    """TopK's loss by plain autograd; the fields are the mistakes."""

    encoder_sees_extras: bool = True
    relu: Callable[[Tensor], Tensor] = torch.relu
    auxk_relu: Callable[[Tensor], Tensor] = torch.relu
    detach_residual: bool = True

    def __call__(self, p: Tensors, x_BD: Tensor, spec: TopKSpec) -> Result:
        leaves = {name: value.clone().requires_grad_() for name, value in p.items()}
        terms = self._terms(leaves, x_BD, spec)
        grads = torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(leaves.values()))
        values = {name: float(term.detach()) for name, term in terms.items()}
        return Result(values, dict(zip(leaves, grads, strict=True)))

    def _terms(self, p: Tensors, x_BD: Tensor, spec: TopKSpec) -> Tensors:
        h_BF = (x_BD - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
        extra_BF = h_BF if self.encoder_sees_extras else h_BF.detach()
        e_BD = x_BD - p["b_dec"] - _sparse(h_BF, K, self.relu) @ p["W_dec"]
        terms = {"reconstruction": e_BD.square().sum() / ROWS / VARIANCE}
        if spec.multi_topk_coefficient:
            wide_BD = x_BD - p["b_dec"] - _sparse(extra_BF, 4 * K, self.relu) @ p["W_dec"]
            share = spec.multi_topk_coefficient * wide_BD.square().sum() / ROWS / VARIANCE
            terms["multi_topk"] = share
        if spec.auxk_coefficient:
            goal_BD = e_BD.detach() if self.detach_residual else e_BD
            dead_BF = _sparse(extra_BF[:, DEAD], K_AUX, self.auxk_relu)
            error = (goal_BD - dead_BF @ p["W_dec"][DEAD]).square().sum()
            spread = (goal_BD - goal_BD.mean(0)).square().sum()
            terms["auxk"] = spec.auxk_coefficient * error / spread
        return terms


def _sparse(h: Tensor, n: int, relu: Callable[[Tensor], Tensor]) -> Tensor:
    top = h.topk(n, dim=1)
    return torch.zeros_like(h).scatter(1, top.indices, relu(top.values))


def signed(value: Tensor) -> Tensor:
    return value


def check_auxk_reaches_the_encoder(step: Step) -> None:
    """sparsify's fused encoder drops this gradient."""
    with_auxk, without = step(params(), rows(), AUXK), step(params(), rows(), PLAIN)
    assert float(with_auxk.moved("W_enc", without)[DEAD].max()) > 1e-4
    assert float(with_auxk.moved("b_enc", without)[DEAD].max()) > 1e-4


def check_multi_topk_reaches_the_encoder(step: Step) -> None:
    """sparsify's fused encoder drops this gradient as well."""
    one = rows()[:1].expand(ROWS, D)
    reached = [
        int((step(params(), one, spec).grads["b_enc"] != 0).sum()) for spec in (PLAIN, MULTI)
    ]
    assert reached[0] <= K < reached[1]


def check_silent_slots_pass_no_gradient(step: Step) -> None:
    """sparsify skips the ReLU's mask."""
    p = params() | {"b_enc": torch.full((F,), -100.0).double()}
    grads = step(p, rows(), PLAIN).grads
    assert not grads["W_enc"].any()
    assert not grads["b_enc"].any()


def check_auxk_takes_no_negative_activation(step: Step) -> None:
    """SAELens's AuxK has no ReLU."""
    p = params()
    p["b_enc"][DEAD] = -100.0
    found = step(p, rows(), AUXK)
    silent = step(p | {"W_dec": p["W_dec"].index_fill(0, torch.tensor(DEAD), 0.0)}, rows(), AUXK)
    assert found.terms["auxk"] == pytest.approx(silent.terms["auxk"], rel=1e-12)


def check_auxk_pulls_no_latent_that_is_alive(step: Step) -> None:
    """Llamascopium does not detach the residual."""
    with_auxk, without = step(params(), rows(), AUXK), step(params(), rows(), PLAIN)
    for name in ("W_enc", "b_enc", "W_dec"):
        assert float(with_auxk.moved(name, without)[ALIVE].max()) < 1e-14, name


MISTAKES: list[tuple[Callable[[Step], None], Written]] = [
    (check_auxk_reaches_the_encoder, Written(encoder_sees_extras=False)),
    (check_multi_topk_reaches_the_encoder, Written(encoder_sees_extras=False)),
    (check_silent_slots_pass_no_gradient, Written(relu=unmasked)),
    (check_auxk_takes_no_negative_activation, Written(auxk_relu=signed)),
    (check_auxk_pulls_no_latent_that_is_alive, Written(detach_residual=False)),
]


@pytest.mark.parametrize(
    ("check", "mistaken"), MISTAKES, ids=[check.__name__ for check, _ in MISTAKES]
)
def test_ours_passes_and_the_mistaken_form_fails(
    check: Callable[[Step], None], mistaken: Step
) -> None:
    check(ours)
    check(Written())
    with pytest.raises(AssertionError):
        check(mistaken)


def _matryoshka(p: Tensors, x_BD: Tensor, widths: tuple[int, ...]) -> float:
    spec = MatryoshkaSpec(k=K, k_aux=K_AUX, widths=widths, auxk_coefficient=0.0)
    state = {"variance": torch.tensor(VARIANCE).double(), "threshold": torch.tensor(0.0).double()}
    output = FastMatryoshka().gradients(spec, p, state, Batch(x_BD, x_BD), context(F))
    return float(output.terms["reconstruction"])


def _averaged_twice(p: Tensors, x_BD: Tensor, widths: tuple[int, ...]) -> float:
    return _matryoshka(p, x_BD, widths) / len(widths)


def test_matryoshka_averages_over_prefixes_once() -> None:
    """dictionary_learning weighs each prefix by 1/n and then takes the mean: n times weaker
    beside AuxK. Where no latent adds anything, all prefixes are equal to their mean."""

    def check(loss: Callable[[Tensors, Tensor, tuple[int, ...]], float]) -> None:
        p = params() | {"W_dec": torch.zeros(F, D).double()}
        expected = float((rows() - p["b_dec"]).square().sum() / ROWS / VARIANCE)
        for widths in ((F,), (5, F), (2, 5, 9, F)):
            assert loss(p, rows(), widths) == pytest.approx(expected, rel=1e-12)

    check(_matryoshka)
    with pytest.raises(AssertionError):
        check(_averaged_twice)


def _in_tokens(counter_F: Tensor, fired_F: Tensor, batch: int) -> None:
    dead.update_(counter_F, fired_F, batch)


def _in_steps(counter_F: Tensor, fired_F: Tensor, batch: int) -> None:
    dead.update_(counter_F, fired_F, 100)


def test_the_dead_window_is_counted_in_tokens() -> None:
    """SAELens counts steps, so its window changes with the batch size."""

    def check(update: Callable[[Tensor, Tensor, int], None]) -> None:
        for batch in (10, 100, 500):
            counter_F = torch.zeros(2, dtype=torch.int64)
            for _ in range(1000 // batch):
                update(counter_F, torch.tensor([1, 0]), batch)
            assert torch.equal(dead.mask(counter_F, 1000), torch.tensor([False, True]))
            assert not dead.mask(counter_F, 1001).any()

    check(_in_tokens)
    with pytest.raises(AssertionError):
        check(_in_steps)


class _FromTheStart:
    """A stream that begins anew at `offset`."""

    def __init__(self, source: ActivationSource, offset: int) -> None:
        self.d, self.rows = source.d, source.rows
        self._source, self._offset = source, offset

    def batch(self, position: int, size: int) -> Tensor:
        return self._source.batch(position - self._offset, size)

    def sample(self, n: int, seed: int) -> Tensor:
        return self._source.sample(n, seed)


def test_a_resumed_run_reads_on_where_it_stopped(tmp_path: Path) -> None:
    """SAELens loses its buffer and its generator's state, so that it sees other rows."""
    setup = tiny_setup(tiny_spec("batchtopk", tokens=6 * 64))
    whole = Trainer.start(setup)
    run_all(whole, FolderSink(tmp_path / "whole"))
    run_until(Trainer.start(setup), FolderSink(tmp_path / "first"), 3)

    def check(source: ActivationSource, folder: str) -> None:
        resumed = Trainer.resume(replace(setup, source=source), tmp_path / "first" / "3")
        run_all(resumed, FolderSink(tmp_path / folder))
        assert torch.equal(resumed.form().W_enc_FD, whole.form().W_enc_FD)

    check(setup.source, "ours")
    with pytest.raises(AssertionError):
        check(_FromTheStart(setup.source, 3 * 64), "mistaken")


def _descend(dtype: torch.dtype) -> float:
    """200 Adam steps of 1e-4 down from 1."""
    weights = {"w": torch.ones(4, dtype=dtype)}
    moments = Moments.zeros(weights)
    for step in range(200):
        gradient = {"w": torch.ones(4, dtype=dtype)}
        adam_step_(weights, gradient, moments, AdamSettings(0.9, 0.999, 1e-8), lr=1e-4, step=step)
    return float(weights["w"][0])


def test_parameters_are_not_kept_in_bfloat16(tmp_path: Path) -> None:
    """Steps below the type's resolution are lost (SAELens #728)."""

    def check(dtype: torch.dtype) -> None:
        assert _descend(dtype) == pytest.approx(0.98, abs=1e-4)

    check(torch.float32)
    with pytest.raises(AssertionError):
        check(torch.bfloat16)
    for name in ("topk", "batchtopk", "matryoshka", "jumprelu"):
        spec = tiny_spec(name, tokens=2 * 64, encoder_dtype="bfloat16")
        trainer = Trainer.start(tiny_setup(spec))
        run_all(trainer, FolderSink(tmp_path / name))
        state = trainer.state
        for group in (state.params, state.moments.first, state.moments.second):
            assert {value.dtype for value in group.values()} == {torch.float32}, name
