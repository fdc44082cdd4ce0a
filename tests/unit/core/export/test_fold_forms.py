"""Exports of transcoders and crosscoders: skip connections, selection, and their files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.fakes.sae import evaluate, generator, random_form, random_preprocessing

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.data.preprocess import Preprocessing, SideBySide
from saeserve.core.evaluation.reconstruction import evaluate_reconstruction
from saeserve.core.export.fold import Side, fold, fold_between
from saeserve.core.export.format import load_model, save_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import Lineage, TopKActivation
from saeserve.errors import DataMismatchError, FormatError

D_IN, D_OUT, F = 12, 7, 40


def unequal_scales() -> SideBySide:
    mean_D = torch.randn(12, generator=generator(2))
    return SideBySide((Preprocessing(mean_D[:8], 0.7), Preprocessing(mean_D[8:], 0.02)))


def crosscoder() -> tuple[EvaluationForm, InferenceModel]:
    form = random_form("topk")
    side = Side(("early", "late"), unequal_scales())
    return form, fold_between(form, side, side, architecture="topk", lineage=Lineage())


def transcoder(skip: bool = True) -> tuple[EvaluationForm, InferenceModel]:
    draws = generator(3)
    form = EvaluationForm(
        W_enc_FD=torch.randn(F, D_IN, generator=draws),
        b_enc_F=torch.randn(F, generator=draws),
        W_dec_FO=torch.randn(F, D_OUT, generator=draws),
        b_dec_O=torch.randn(D_OUT, generator=draws),
        W_skip_OD=torch.randn(D_OUT, D_IN, generator=draws) if skip else None,
    )
    model = fold_between(
        form,
        Side(("in",), random_preprocessing(D_IN, 5)),
        Side(("out",), Preprocessing(torch.randn(D_OUT, generator=draws), 3.0)),
        architecture="relu",
        lineage=Lineage(),
    )
    return form, model


def rows(width: int, seed: int = 8) -> torch.Tensor:
    return 3 * torch.randn(200, width, generator=generator(seed)) + 1


def test_a_crosscoder_selects_what_training_selected_although_scales_differ() -> None:
    form, model = crosscoder()
    assert model.config.activation == TopKActivation(k=5, weighted=True)
    trained_BF = evaluate(form, unequal_scales().apply(rows(12)))
    assert torch.equal(model.encode_dense(rows(12)) != 0, trained_BF != 0)
    norm_F = model.W_dec.square().sum(dim=1).sqrt()
    torch.testing.assert_close(norm_F, torch.ones_like(norm_F), rtol=0, atol=1e-6)


def test_without_its_selection_it_would_select_others() -> None:
    """The mistake that `selection` is there for."""
    form, model = crosscoder()
    trained_BF = evaluate(form, unequal_scales().apply(rows(12))) != 0
    plain_BF = evaluate(
        EvaluationForm(model.W_enc.T, model.b_enc, model.W_dec, model.b_dec, k=5), rows(12)
    )
    assert not torch.equal(plain_BF != 0, trained_BF)


def test_sources_of_one_scale_need_no_selection() -> None:
    form, parts = random_form("topk"), unequal_scales().parts
    alike = SideBySide((parts[0], Preprocessing(parts[1].mean_D, parts[0].scale)))
    side = Side(("early", "late"), alike)
    model = fold_between(form, side, side, architecture="topk", lineage=Lineage())
    assert model.selection is None
    whole = Preprocessing(torch.cat([p.mean_D for p in parts]), parts[0].scale)
    single = fold(form, whole, architecture="topk", source="x", lineage=Lineage())
    torch.testing.assert_close(model.W_dec, single.W_dec)


def test_a_crosscoder_names_its_columns_and_tells_fvu_by_source() -> None:
    _, model = crosscoder()
    places = [(source.name, source.offset, source.d) for source in model.config.inputs]
    assert places == [("early", 0, 8), ("late", 8, 4)]
    assert model.config.inputs == model.config.outputs
    report = evaluate_reconstruction(model, [rows(12)])
    x, y = rows(12).double(), model.reconstruct(rows(12)).double()
    for name, columns in (("early", slice(0, 8)), ("late", slice(8, 12))):
        part = x[:, columns]
        expected = (part - y[:, columns]).square().sum() / (part - part.mean(0)).square().sum()
        assert report.metrics()[f"fvu_{name}"] == pytest.approx(float(expected), rel=1e-9)
    assert "fvu_in" not in evaluate_reconstruction(*judged()).metrics()


def judged() -> tuple[InferenceModel, list[torch.Tensor]]:
    return transcoder()[1], [torch.cat([rows(D_IN), rows(D_OUT, seed=9)], dim=1)]


def test_a_transcoder_is_judged_on_its_target() -> None:
    model, (rows_BC,) = judged()
    x, y = rows_BC[:, :D_IN], rows_BC[:, D_IN:].double()
    error = (model.reconstruct(x).double() - y).square().sum()
    expected = error / (y - y.mean(0)).square().sum()
    assert evaluate_reconstruction(model, [rows_BC]).fvu == pytest.approx(float(expected), rel=1e-9)
    with pytest.raises(DataMismatchError, match="rows of width 12 do not fit"):
        evaluate_reconstruction(model, [x])


def test_features_alone_do_not_decode_through_a_skip_connection() -> None:
    _, model = transcoder()
    x_BD = rows(D_IN)
    features = model.encode(x_BD)
    with pytest.raises(DataMismatchError, match="features alone do not tell") as caught:
        model.decode(features)
    assert "reconstruct" in caught.value.remedy
    assert torch.equal(model.decode(features, x_BD), model.reconstruct(x_BD))
    assert model.W_skip is not None
    _, plain = transcoder(skip=False)
    assert plain.W_skip is None
    torch.testing.assert_close(plain.decode(features), plain.reconstruct(x_BD))


@pytest.mark.parametrize("name", ["selection", "W_skip"])
def test_files_hold_what_the_form_needs(name: str, tmp_path: Path) -> None:
    model = with_tensor(name)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert loaded.tensors.keys() == model.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], value) for name, value in model.tensors.items())


def with_tensor(name: str) -> InferenceModel:
    return crosscoder()[1] if name == "selection" else transcoder()[1]


@pytest.mark.parametrize("name", ["selection", "W_skip"])
def test_models_without_it_are_refused(name: str, tmp_path: Path) -> None:
    model = with_tensor(name)
    assert name in model.tensors
    with pytest.raises(FormatError, match=f"tensor {name} is missing"):
        save_model(dataclasses.replace(model, **{name: None}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_negative_selection_is_refused(tmp_path: Path) -> None:
    model = with_tensor("selection")
    assert model.selection is not None
    with pytest.raises(FormatError, match="selection holds negative values"):
        save_model(dataclasses.replace(model, selection=-model.selection), tmp_path)
