"""The battery of transcoders and crosscoders, which every architecture passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.forms import (
    DIMS,
    FORMS,
    PlantedPair,
    form_setup,
    form_spec,
    run_folded,
    run_form,
    sides,
)
from tests.fakes.training import FolderSink, context, losses, metric, run_all, run_until
from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import Batch, Context, StepOutput, Tensors
from saeserve.core.architectures.registry import ARCHITECTURES, architecture_of
from saeserve.core.export.fold import Side, fold_between, fold_tensors
from saeserve.core.export.format import load_model, save_model
from saeserve.core.formats.model import Lineage
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.training.trainer import Trainer

EVERY = pytest.mark.parametrize("name", sorted(ARCHITECTURES))
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Prepared:
    """An architecture in one form with parameters of its own, in float64, and a batch."""

    architecture: Architecture[Any]
    spec: ArchitectureSpec
    params: Tensors
    state: Tensors
    batch: Batch
    ctx: Context

    def step(self, **changed: Tensor) -> StepOutput:
        params = self.params | changed
        return self.architecture.gradients(self.spec, params, self.state, self.batch, self.ctx)


@pytest.fixture
def prepared(name: str, form: str) -> Prepared:
    train = form_spec(name, form)
    architecture, spec = architecture_of(train), train.architecture
    setup = form_setup(train, form)
    rows_BC = setup.preprocessing.apply(setup.source.batch(0, 512).double())
    sample = setup.dims.batch(rows_BC)
    params, state = architecture.initialise(spec, setup.dims, sample.x_BD, sample.target_BO, seed=3)
    draws = torch.Generator().manual_seed(5)
    params = {
        key: value + 0.02 * torch.randn(value.shape, generator=draws, dtype=value.dtype)
        for key, value in params.items()
    }
    scheduled = architecture.scheduled(spec, 25, 50)
    # Step 0, so that what is calibrated is this batch's.
    ctx = context(train.d_sae, dead=list(range(6)), step=0, scheduled=scheduled)
    return Prepared(architecture, spec, params, state, setup.dims.batch(rows_BC[:32]), ctx)


@EVERY
@EVERY_FORM
def test_a_batch_holds_what_the_form_reads_and_writes(prepared: Prepared, form: str) -> None:
    batch, dims = prepared.batch, DIMS[form]
    assert (batch.x_BD.shape[1], batch.target_BO.shape[1]) == (dims.d_in, dims.d_out)
    assert (batch.target_BO is batch.x_BD) == (form == "crosscoder")
    assert batch.target_widths == dims.target_widths


@EVERY
@EVERY_FORM
def test_terms_sum_to_the_loss_and_every_parameter_learns(prepared: Prepared) -> None:
    output = prepared.step()
    total = torch.stack(list(output.terms.values())).sum()
    torch.testing.assert_close(total, output.loss, rtol=1e-12, atol=0)
    assert set(output.grads) == set(prepared.params)
    for key, gradient in output.grads.items():
        assert isinstance(gradient, Tensor)
        assert float(gradient.abs().max()) > 0, key


@EVERY
@pytest.mark.parametrize("form", ["skip transcoder"])
def test_the_skip_connection_has_the_derivatives_of_the_loss(prepared: Prepared) -> None:
    """By central differences, AuxK left out: its residual is detached."""
    value, gradient = prepared.params["W_skip"], prepared.step().grads["W_skip"]
    assert isinstance(gradient, Tensor)
    for place in [(0, 0), (3, 7), (-1, -1)]:
        moved = torch.zeros_like(value)
        moved[place] = 1e-5
        ends = [_without_auxk(prepared.step(W_skip=value + s * moved)) for s in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(gradient[place]), rel=1e-5)


def _without_auxk(output: StepOutput) -> float:
    return sum(float(term) for name, term in output.terms.items() if name != "auxk")


@EVERY
@EVERY_FORM
def test_the_evaluation_form_is_the_training_form(prepared: Prepared) -> None:
    output = prepared.step()
    form = prepared.architecture.evaluation_form(prepared.spec, prepared.params, output.state)
    f_BF, y_BO = run_form(form, prepared.batch.x_BD)
    error = (y_BO - prepared.batch.target_BO).square().sum()
    torch.testing.assert_close(error, output.stats.squared_error, rtol=1e-10, atol=0)
    assert torch.equal((f_BF != 0).sum(dim=0), output.stats.fired_F)


@EVERY
@EVERY_FORM
def test_the_fold_computes_on_raw_rows_what_training_computed(
    prepared: Prepared, form: str
) -> None:
    source = PlantedPair(skip=0.3)
    inputs, targets = sides(form, source.preprocessing())
    state = prepared.step().state
    evaluated = prepared.architecture.evaluation_form(prepared.spec, prepared.params, state)
    if evaluated.k is not None:
        norms_F1 = evaluated.W_dec_FO.square().sum(dim=1, keepdim=True).sqrt()
        evaluated.W_dec_FO.div_(norms_F1)
    raw_BC = source.batch(5, 64).double()
    x_BD = raw_BC[:, : DIMS[form].d_in]
    f_BF, y_BO = run_form(evaluated, _apply(inputs.parts, x_BD))
    folded = fold_tensors(evaluated, inputs, targets, torch.float64)
    features_BF, found_BO = run_folded(folded, evaluated.k, x_BD)
    expected_BO = _invert(targets.parts, y_BO)
    torch.testing.assert_close(found_BO, expected_BO, rtol=1e-10, atol=1e-10)
    assert torch.equal(features_BF != 0, f_BF != 0)
    alive = folded.W_dec_FO.square().sum(dim=1).sqrt()
    torch.testing.assert_close(alive, torch.ones_like(alive), rtol=0, atol=1e-12)


@EVERY
@EVERY_FORM
def test_a_trained_model_is_stored_and_reconstructs_the_target(
    name: str, form: str, tmp_path: Path
) -> None:
    setup = form_setup(form_spec(name, form), form)
    trainer = Trainer.start(setup)
    run_all(trainer, FolderSink(tmp_path / "checkpoints"))
    inputs, targets = sides(form, PlantedPair().preprocessing())
    names = ("x", "y") if form == "crosscoder" else ("x",)
    outputs = ("x", "y") if form == "crosscoder" else ("y",)
    made = fold_between(
        trainer.form(),
        Side(names, inputs),
        Side(outputs, targets),
        architecture=name,
        lineage=Lineage(),
    )
    save_model(made, tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert [source.name for source in model.config.inputs] == list(names)
    assert [source.offset for source in model.config.outputs] == [0, 16][: len(outputs)]
    raw_BC = setup.source.batch(10**6, 64)
    x_BD = raw_BC[:, : model.config.d_in]
    _, y_BO = run_form(trainer.form(), _apply(inputs.parts, x_BD.double()))
    expected_BO = _invert(targets.parts, y_BO)
    error_B = (model.reconstruct(x_BD) - expected_BO).abs().amax(dim=1)
    assert bool((error_B <= 1e-5 * expected_BO.abs().amax(dim=1)).double().mean() > 0.95)


@EVERY
@EVERY_FORM
def test_constrained_rows_stay_at_unit_norm(name: str, form: str, tmp_path: Path) -> None:
    spec = form_spec(name, form, tokens=5 * 64)
    trainer = Trainer.start(form_setup(spec, form))
    run_all(trainer, FolderSink(tmp_path))
    for key in ARCHITECTURES[name].unit_rows(spec.architecture):
        norms = trainer.state.params[key].double().square().sum(dim=1).sqrt()
        assert float((norms - 1).abs().max()) < 1e-6


@EVERY
@EVERY_FORM
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(
    name: str, form: str, tmp_path: Path
) -> None:
    setup = form_setup(form_spec(name, form, tokens=20 * 64, log_every_steps=7), form)
    whole = Trainer.start(setup)
    expected = run_all(whole, FolderSink(tmp_path / "whole"))
    run_until(Trainer.start(setup), FolderSink(tmp_path / "first"), 10)
    resumed = Trainer.resume(setup, tmp_path / "first" / "10")
    events = run_all(resumed, FolderSink(tmp_path / "second"))
    assert losses(events) == losses(expected)[1:]
    left, right = whole.state.tensors(), resumed.state.tensors()
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


@EVERY
@EVERY_FORM
def test_training_predicts_better(name: str, form: str, tmp_path: Path) -> None:
    setup = form_setup(form_spec(name, form), form)
    fvu = metric(run_all(Trainer.start(setup), FolderSink(tmp_path)), "fvu")
    assert fvu[-1] < 0.85 * fvu[0]


@EVERY
def test_a_skip_connection_takes_up_what_is_linear(name: str, tmp_path: Path) -> None:
    source = PlantedPair(skip=2.0)
    found: dict[str, float] = {}
    for form in ("transcoder", "skip transcoder"):
        setup = form_setup(form_spec(name, form, optimizer={"lr": 1e-2}), form, source)
        found[form] = metric(run_all(Trainer.start(setup), FolderSink(tmp_path / form)), "fvu")[-1]
    assert found["skip transcoder"] < 0.6 * found["transcoder"]


def _apply(parts: tuple[Any, ...], x_BD: Tensor) -> Tensor:
    widths = [part.mean_D.numel() for part in parts]
    columns = x_BD.split_with_sizes(widths, dim=1)
    return torch.cat(
        [p.scale * (x - p.mean_D.double()) for p, x in zip(parts, columns, strict=True)], dim=1
    )


def _invert(parts: tuple[Any, ...], y_BO: Tensor) -> Tensor:
    widths = [part.mean_D.numel() for part in parts]
    columns = y_BO.split_with_sizes(widths, dim=1)
    return torch.cat(
        [y / p.scale + p.mean_D.double() for p, y in zip(parts, columns, strict=True)], dim=1
    )
