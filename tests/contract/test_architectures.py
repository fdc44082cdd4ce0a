"""One battery that every registered architecture passes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.forms import run_folded
from tests.fakes.sources import PlantedSource
from tests.fakes.training import (
    FolderSink,
    context,
    features_of,
    losses,
    reconstruction_of,
    run_all,
    run_until,
    tiny_setup,
    tiny_spec,
)
from tests.golden.curves import TOLERANCE, curve, read_golden
from torch import Tensor

from saeserve.core.architectures.base import Architecture, by_autograd
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    StepOutput,
    Tensors,
)
from saeserve.core.architectures.registry import ARCHITECTURES, architecture_for
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.export.fold import fold_tensors
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.trainer import Trainer
from saeserve.errors import SpecError

EVERY = pytest.mark.parametrize("name", sorted(ARCHITECTURES))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Prepared:
    """An architecture with parameters of its own, in float64, and a batch."""

    architecture: Architecture[Any]
    spec: ArchitectureSpec
    params: Tensors
    state: Tensors
    batch: Batch
    ctx: Context

    def step(self) -> StepOutput:
        return self.architecture.gradients(self.spec, self.params, self.state, self.batch, self.ctx)


@pytest.fixture
def prepared(name: str) -> Prepared:
    train = tiny_spec(name)
    architecture, spec = architecture_for(train.architecture), train.architecture
    setup = tiny_setup(train)
    rows = setup.preprocessing.apply(setup.source.batch(0, 512)).double()
    params, state = architecture.initialise(spec, setup.dims, rows, rows, seed=3)
    generator = torch.Generator().manual_seed(5)
    params = {
        key: value + 0.02 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for key, value in params.items()
    }
    scheduled = architecture.scheduled(spec, 25, 50)
    ctx = context(train.d_sae, dead=list(range(6)), step=25, scheduled=scheduled)
    return Prepared(architecture, spec, params, state, Batch(rows[:32], rows[:32]), ctx)


@EVERY
def test_a_spec_survives_json_and_names_its_architecture(name: str) -> None:
    spec = tiny_spec(name)
    assert TrainSpec.parse(json.loads(json.dumps(spec.to_json())), "train") == spec
    assert ARCHITECTURE_SPECS[name].name == name
    assert architecture_for(spec.architecture) is ARCHITECTURES[name]


def test_an_unregistered_architecture_is_refused_by_name() -> None:
    class Unknown(ArchitectureSpec):
        name = "unknown"

    with pytest.raises(SpecError, match=r"train\.unknown"):
        architecture_for(Unknown())


@EVERY
def test_gradients_are_those_of_the_loss(prepared: Prepared) -> None:
    fast = prepared.step()
    plain = by_autograd(
        lambda leaves: prepared.architecture.loss(
            prepared.spec, leaves, prepared.state, prepared.batch, prepared.ctx
        ),
        prepared.params,
    )
    assert set(fast.grads) == set(prepared.params)
    for key in prepared.params:
        expected = plain.grads[key]
        assert bool(torch.isfinite(expected).all()), key
        assert float(expected.abs().max()) > 0, key
        error = (fast.grads[key] - expected).abs().max()
        assert float(error / expected.abs().max()) <= 1e-8, key


@EVERY
def test_terms_sum_to_the_loss(prepared: Prepared) -> None:
    output = prepared.step()
    total = torch.stack(list(output.terms.values())).sum()
    torch.testing.assert_close(total, output.loss, rtol=1e-12, atol=0)
    assert all(float(term) > 0 for term in output.terms.values()), output.terms


@EVERY
def test_what_comes_back_holds_no_graph_and_changes_nothing(prepared: Prepared) -> None:
    before = {key: value.clone() for key, value in prepared.params.items()}
    output = prepared.step()
    held: list[Tensor] = [output.loss, *output.terms.values(), *output.state.values()]
    assert not any(value.requires_grad for value in held)
    assert all(torch.equal(before[key], value) for key, value in prepared.params.items())


@EVERY
def test_the_evaluation_form_is_the_training_form(prepared: Prepared) -> None:
    """At once where the training form works row by row, else once calibrated on this batch."""
    first = replace(prepared, ctx=replace(prepared.ctx, step=0)).step()
    form = prepared.architecture.evaluation_form(prepared.spec, prepared.params, first.state)
    x_BD, stats = prepared.batch.x_BD, first.stats
    error = (reconstruction_of(form, x_BD) - prepared.batch.target_BO).square().sum()
    torch.testing.assert_close(error, stats.squared_error, rtol=1e-10, atol=0)
    fired_F = (features_of(form, x_BD) != 0).sum(dim=0)
    assert torch.equal(fired_F, stats.fired_F)


@EVERY
def test_the_export_computes_on_raw_rows_what_the_evaluation_form_does(prepared: Prepared) -> None:
    """Features times their decoder rows' norms, reconstructions as they are
    (docs/DESIGN.md, "Three forms")."""
    setup = tiny_setup(tiny_spec(prepared.spec.name))
    state = prepared.step().state
    form = prepared.architecture.evaluation_form(prepared.spec, prepared.params, state)
    norms_F = form.W_dec_FO.square().sum(dim=1).sqrt()
    if form.k is not None:
        form.W_dec_FO.div_(norms_F[:, None])
        norms_F = torch.ones_like(norms_F)
    preprocessing = setup.preprocessing
    assert isinstance(preprocessing, Preprocessing)
    raw_BD = setup.source.batch(7, 64).double()
    x_BD = preprocessing.apply(raw_BD)
    folded = fold_tensors(form, preprocessing, preprocessing, torch.float64)
    features_BF, found_BD = run_folded(folded, form.k, raw_BD)
    expected_BD = reconstruction_of(form, x_BD) / preprocessing.scale + preprocessing.mean_D
    torch.testing.assert_close(found_BD, expected_BD, rtol=1e-10, atol=1e-10)
    expected_BF = norms_F / preprocessing.scale * features_of(form, x_BD)
    torch.testing.assert_close(features_BF, expected_BF, rtol=1e-10, atol=1e-10)
    units_F = folded.W_dec_FO.square().sum(dim=1).sqrt()
    torch.testing.assert_close(units_F, torch.ones_like(units_F), rtol=0, atol=1e-12)


@EVERY
def test_a_row_alone_evaluates_as_in_a_batch(prepared: Prepared) -> None:
    form = prepared.architecture.evaluation_form(prepared.spec, prepared.params, prepared.state)
    x_BD = prepared.batch.x_BD
    together = reconstruction_of(form, x_BD)
    alone = torch.cat([reconstruction_of(form, x_BD[i : i + 1]) for i in range(len(x_BD))])
    torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-12)


@EVERY
def test_constrained_rows_stay_at_unit_norm(name: str, tmp_path: Path) -> None:
    spec = tiny_spec(name, tokens=5 * 64)
    trainer = Trainer.start(tiny_setup(spec))
    run_all(trainer, FolderSink(tmp_path))
    for key in ARCHITECTURES[name].unit_rows(spec.architecture):
        norms = trainer.state.params[key].double().square().sum(dim=1).sqrt()
        assert float((norms - 1).abs().max()) < 1e-6


@EVERY
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(name: str, tmp_path: Path) -> None:
    setup = tiny_setup(tiny_spec(name, tokens=20 * 64, log_every_steps=7))
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
def test_a_bfloat16_encoder_trains_like_a_float32_one(name: str, tmp_path: Path) -> None:
    curves = {
        dtype: losses(
            run_all(
                Trainer.start(tiny_setup(tiny_spec(name, encoder_dtype=dtype))),
                FolderSink(tmp_path / dtype),
            )
        )
        for dtype in ("float32", "bfloat16")
    }
    assert curves["bfloat16"] == pytest.approx(curves["float32"], rel=0.05)


@EVERY
def test_the_loss_follows_the_golden_curve(name: str) -> None:
    found = curve(name)
    assert found == pytest.approx(read_golden(name), rel=TOLERANCE)


@EVERY
def test_training_reconstructs_better(name: str) -> None:
    """By fvu: a loss may rise while its penalty is warmed up."""
    fvu = curve(name, key="fvu")
    assert fvu[-1] < 0.8 * fvu[0]


@EVERY
def test_the_golden_curve_notices_another_seed(name: str) -> None:
    other = curve(name, source=PlantedSource(features=24, d=16, active=3, seed=2))
    assert other != pytest.approx(read_golden(name), rel=TOLERANCE)
