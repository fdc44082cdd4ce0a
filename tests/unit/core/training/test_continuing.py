"""Training goes on from an export: the same function on new data, for every architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.forms import FORMS, form_setup, form_spec, run_form, sides
from tests.fakes.training import (
    D,
    F,
    FolderSink,
    losses,
    metric,
    run_all,
    tiny_setup,
    tiny_spec,
)
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.architectures.registry import ARCHITECTURES
from saeserve.core.data.preprocess import Preprocessing, SideBySide
from saeserve.core.export.fold import Side, fold, fold_between
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.unfold import unfold
from saeserve.core.formats.continuation import check_continuation
from saeserve.core.formats.manifest import SourceEntry
from saeserve.core.formats.model import Lineage
from saeserve.core.formats.train_sources import Layout
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import Trainer
from saeserve.errors import DataMismatchError, SpecError

EVERY = pytest.mark.parametrize("name", sorted(ARCHITECTURES))
ELSEWHERE = Preprocessing(torch.linspace(-0.3, 0.2, D), 3.1)
"""Other data: centred and scaled otherwise than those of the first run."""


def exported(trainer: Trainer, setup: TrainingSetup, name: str) -> InferenceModel:
    assert isinstance(setup.preprocessing, Preprocessing)
    return fold(
        trainer.form(), setup.preprocessing, architecture=name, source="x", lineage=Lineage()
    )


def trained(name: str, folder: Path, **changes: Any) -> tuple[InferenceModel, TrainingSetup, float]:  # noqa: ANN401 - any field
    setup = tiny_setup(tiny_spec(name, tokens=40 * 64, **changes))
    trainer = Trainer.start(setup)
    fvu = metric(run_all(trainer, FolderSink(folder)), "fvu")[-1]
    return exported(trainer, setup, name), setup, fvu


def continued(
    setup: TrainingSetup, model: InferenceModel, preprocessing: Preprocessing
) -> tuple[Trainer, TrainingSetup]:
    form = unfold(model, preprocessing, preprocessing)
    new = replace(setup, preprocessing=preprocessing, initial=form)
    return Trainer.start(new), new


def compared(left: InferenceModel, right: InferenceModel, x_BD: Tensor) -> tuple[Tensor, Tensor]:
    return left.encode_dense(x_BD), right.encode_dense(x_BD)


@EVERY
def test_a_run_of_no_steps_exports_the_model_that_it_continues(name: str, tmp_path: Path) -> None:
    model, setup, _ = trained(name, tmp_path)
    trainer, new = continued(setup, model, ELSEWHERE)
    again = exported(trainer, new, name)
    x_BD = setup.source.batch(2**30, 256)
    before, after = compared(model, again, x_BD)
    largest = float(before.abs().max())
    # Features at a threshold may go either way; the largest of them is the smallest kept.
    differs = ((before - after).abs() > 1e-4 * largest).double().mean()
    assert float(differs) < 1e-4
    whole = model.reconstruct(x_BD)
    assert float((again.reconstruct(x_BD) - whole).abs().mean()) < 1e-4 * float(whole.abs().max())


@EVERY
def test_training_goes_on_where_it_stood(name: str, tmp_path: Path) -> None:
    model, setup, reached = trained(name, tmp_path / "a")
    anew = metric(run_all(Trainer.start(setup), FolderSink(tmp_path / "b")), "fvu")[0]
    trainer, _ = continued(setup, model, ELSEWHERE)
    found = metric(run_all(trainer, FolderSink(tmp_path / "c")), "fvu")
    assert found[0] < reached + 0.25 * (anew - reached)
    assert found[-1] < found[0]


@EVERY
def test_a_continued_run_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    """A checkpoint holds all; the model is not needed again."""
    model, setup, _ = trained(name, tmp_path / "a")
    trainer, new = continued(setup, model, ELSEWHERE)
    sink = FolderSink(tmp_path / "b")
    expected = losses(run_all(trainer, sink))
    resumed = Trainer.resume(replace(new, initial=None), tmp_path / "b" / "20")
    assert losses(run_all(resumed, FolderSink(tmp_path / "c"))) == expected[20:]
    assert torch.equal(trainer.state.params["W_dec"], resumed.state.params["W_dec"])


@EVERY
def test_dead_latents_start_anew(name: str, tmp_path: Path) -> None:
    model, setup, _ = trained(name, tmp_path)
    dead = [3, 17]
    W_dec, W_enc = model.W_dec.clone(), model.W_enc.clone()
    W_dec[dead], W_enc[:, dead] = 0.0, 0.0
    threshold = None if model.threshold is None else model.threshold.clone()
    if threshold is not None:
        threshold[dead] = torch.inf
    trainer, _ = continued(
        setup, replace(model, W_dec=W_dec, W_enc=W_enc, threshold=threshold), ELSEWHERE
    )
    fresh = Trainer.start(replace(setup, preprocessing=ELSEWHERE)).state.params
    for key, value in trainer.state.params.items():
        assert bool(torch.isfinite(value).all()), key
        if value.shape[0] == F:
            assert torch.equal(value[dead], fresh[key][dead]), key
            assert not torch.equal(value, fresh[key]) or key == "r_mag", key


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["topk", "matryoshka", "gated"])
def test_transcoders_and_crosscoders_go_on_as_well(name: str, form: str, tmp_path: Path) -> None:
    setup = form_setup(form_spec(name, form), form)
    assert isinstance(setup.preprocessing, SideBySide)
    first = Trainer.start(setup)
    run_all(first, FolderSink(tmp_path))
    source, target = sides(form, setup.preprocessing)
    whole, parts = Side(("x", "y"), source), Side(("y", "x"), target)
    lineage = Lineage()
    model = fold_between(first.form(), whole, parts, architecture=name, lineage=lineage)
    again = Trainer.start(replace(setup, initial=unfold(model, source, target)))
    x_BD = setup.dims.batch(setup.preprocessing.apply(setup.source.batch(2**30, 256))).x_BD
    (_, before), (_, after) = run_form(first.form(), x_BD), run_form(again.form(), x_BD)
    assert float((before - after).abs().mean()) < 1e-4 * float(before.abs().max())


def test_thresholds_that_differ_by_latent_are_no_batchtopk(tmp_path: Path) -> None:
    model, _, _ = trained("jumprelu", tmp_path)
    setup = tiny_setup(tiny_spec("batchtopk"))
    with pytest.raises(DataMismatchError, match="differ by latent"):
        continued(setup, model, ELSEWHERE)


@EVERY
def test_the_activation_of_each_export_is_the_one_that_it_continues(
    name: str, tmp_path: Path
) -> None:
    model, setup, _ = trained(name, tmp_path)
    exported = {name: each.exported_activation for name, each in ARCHITECTURE_SPECS.items()}
    assert model.config.activation.kind == exported[name]
    entry = SourceEntry(name="x", d=D, median_norm=1.0, massive_rows=0)
    check_continuation(setup.spec, model.config, Layout((entry,), (entry,)))
    for other, kind in exported.items():
        if kind != exported[name]:
            with pytest.raises(SpecError, match=rf"{other} trains {kind}") as caught:
                check_continuation(tiny_spec(other), model.config, None)
            assert caught.value.field == "train.init_from"
            assert name in caught.value.remedy
            with pytest.raises(SpecError, match="continues a model with"):
                continued(tiny_setup(tiny_spec(other)), model, ELSEWHERE)


def test_other_widths_are_refused(tmp_path: Path) -> None:
    model, setup, _ = trained("topk", tmp_path)
    spec, config = setup.spec, model.config
    with pytest.raises(SpecError, match=f"is 40, and the model of init_from has {F}") as caught:
        check_continuation(tiny_spec("topk", d_sae=40), config, None)
    assert caught.value.field == "train.d_sae"
    wide = SourceEntry(name="x", d=D + 1, median_norm=1.0, massive_rows=0)
    with pytest.raises(SpecError, match=rf"reads widths \[{D}\], and the data have \[{D + 1}\]"):
        check_continuation(spec, config, Layout((wide,), (wide,)))
    other = Preprocessing(torch.zeros(D + 1), 1.0)
    with pytest.raises(DataMismatchError, match="does not fit data of widths"):
        unfold(model, other, other)


def test_what_training_cannot_express_is_refused(tmp_path: Path) -> None:
    model, setup, _ = trained("topk", tmp_path)
    skip = model.config.model_copy(update={"skip_connection": True})
    with pytest.raises(SpecError, match="has a skip connection"):
        check_continuation(setup.spec, skip, None)
    activation = model.config.activation.model_copy(update={"post": "abs"})
    signed = model.config.model_copy(update={"activation": activation})
    with pytest.raises(SpecError, match="keeps negative features"):
        check_continuation(setup.spec, signed, None)
    row_norm = model.config.row_norm.model_copy(update={"kind": "layer_norm"})
    normed = model.config.model_copy(update={"row_norm": row_norm})
    with pytest.raises(SpecError, match="normalises each row"):
        check_continuation(setup.spec, normed, None)


def test_unfolding_inverts_the_fold_in_another_space(tmp_path: Path) -> None:
    """Unit rows, and each feature times the scale that the new data have."""
    model, _, _ = trained("relu", tmp_path)
    form: EvaluationForm = unfold(model, ELSEWHERE, ELSEWHERE)
    norms = form.W_dec_FO.square().sum(dim=1).sqrt()
    torch.testing.assert_close(norms, torch.ones(F))
    raw = torch.randn(20, D)
    h_BF = ELSEWHERE.apply(raw) @ form.W_enc_FD.T + form.b_enc_F
    expected = ELSEWHERE.scale * model.encode_dense(raw)
    torch.testing.assert_close(h_BF.relu(), expected, rtol=1e-4, atol=1e-4)
