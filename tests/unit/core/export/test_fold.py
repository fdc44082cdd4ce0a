"""Folding changes the form and keeps the function."""

import dataclasses

import pytest
import torch
from tests.fakes.sae import (
    Kind,
    evaluate,
    generator,
    random_form,
    random_model,
    random_preprocessing,
    reconstruct,
    row_norms,
)
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.export import fold as fold_module
from saeserve.core.export.annotate import with_statistics
from saeserve.core.export.fold import fold, fold_tensors
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import Lineage
from saeserve.errors import DataMismatchError

KINDS: list[Kind] = ["topk", "threshold", "relu"]


def _rows(seed: int = 5, rows: int = 33, d: int = 12) -> Tensor:
    return 3 * torch.randn(rows, d, generator=generator(seed)) + 1


def _fold(form: EvaluationForm, preprocessing: Preprocessing) -> InferenceModel:
    return fold(form, preprocessing, architecture="any", source="x", lineage=Lineage())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_raw_rows_are_reconstructed_as_before(kind: Kind, seed: int) -> None:
    form, preprocessing, x_BD = random_form(kind, seed=seed), random_preprocessing(12, 9), _rows()
    expected_BO = reconstruct(form, preprocessing, x_BD)
    difference_BO = (_fold(form, preprocessing).reconstruct(x_BD) - expected_BO).abs()
    assert bool((difference_BO.amax(1) <= 1e-5 * expected_BO.abs().amax(1)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_formulas_are_exact_in_float64(kind: Kind) -> None:
    form, x_BD = random_form(kind), _rows().double()
    source, target = random_preprocessing(12, 9), Preprocessing(torch.randn(12), 1.9)
    folded = fold_tensors(form, source, target, torch.float64)
    f_BF = evaluate(
        EvaluationForm(
            folded.W_enc_DF.T,
            folded.b_enc_F,
            folded.W_dec_FO,
            folded.b_dec_O,
            folded.threshold_F,
            form.k,
        ),
        x_BD,
    )
    before_BF = evaluate(form, source.scale * (x_BD - source.mean_D.double()))
    n_F = row_norms(form.W_dec_FO.double()) / target.scale
    torch.testing.assert_close(f_BF, n_F * before_BF, rtol=1e-10, atol=1e-10)
    expected_BO = before_BF @ form.W_dec_FO.double() + form.b_dec_O.double()
    torch.testing.assert_close(
        f_BF @ folded.W_dec_FO + folded.b_dec_O,
        expected_BO / target.scale + target.mean_D.double(),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_scaled_by_the_decoder_norm(kind: Kind) -> None:
    form, preprocessing, x_BD = random_form(kind), random_preprocessing(12, 9), _rows()
    n_F = row_norms(form.W_dec_FO) / preprocessing.scale
    expected_BF = n_F * evaluate(form, preprocessing.apply(x_BD))
    features_BF = _fold(form, preprocessing).encode_dense(x_BD)
    torch.testing.assert_close(features_BF, expected_BF, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_rows_are_unit(kind: Kind) -> None:
    norm_F = row_norms(random_model(kind).W_dec)
    torch.testing.assert_close(norm_F, torch.ones_like(norm_F), rtol=0, atol=1e-6)


def test_topk_selects_what_training_selected() -> None:
    form, preprocessing, x_BD = random_form("topk"), random_preprocessing(12, 9), _rows(rows=200)
    trained_BF = evaluate(form, preprocessing.apply(x_BD)) != 0
    assert torch.equal(_fold(form, preprocessing).encode_dense(x_BD) != 0, trained_BF)


def test_topk_rows_of_different_norms_are_refused() -> None:
    form = random_form("topk")
    form.W_dec_FO[3] *= 1.01
    with pytest.raises(DataMismatchError, match="would change which latents top-k selects"):
        _fold(form, random_preprocessing(12, 9))


@pytest.mark.parametrize("kind", KINDS)
def test_latents_without_a_direction_are_dead(kind: Kind) -> None:
    form = random_form(kind)
    form.W_dec_FO[[4, 7]] = 1e-10
    form.b_enc_F[[4, 7]] = 1e6
    model = _fold(form, random_preprocessing(12, 9))
    assert model.config.dead_latents == 2
    assert not model.W_dec[[4, 7]].any()
    assert not model.encode_dense(_rows())[:, [4, 7]].any()
    if model.threshold is not None:
        assert torch.equal(model.threshold.isinf().nonzero(), torch.tensor([[4], [7]]))


def test_blocks_of_latents_fold_like_one(monkeypatch: pytest.MonkeyPatch) -> None:
    form, preprocessing = random_form("threshold"), random_preprocessing(12, 9)
    whole = _fold(form, preprocessing)
    monkeypatch.setattr(fold_module, "_BLOCK_ELEMENTS", 12 * 7)
    for name, value in _fold(form, preprocessing).tensors.items():
        torch.testing.assert_close(value, whole.tensors[name])


def test_preprocessing_of_another_width_is_refused() -> None:
    with pytest.raises(DataMismatchError, match="does not fit preprocessing"):
        _fold(random_form("relu"), random_preprocessing(13, 9))


def test_config_tells_what_was_folded() -> None:
    config = random_model("topk").config
    assert config.activation.kind == "topk"
    assert (config.d_in, config.d_out, config.d_sae) == (12, 12, 40)
    assert [source.name for source in config.inputs] == ["resid_post.1"]
    assert random_model("relu").config.activation.kind == "relu"


def test_statistics_join_the_model_and_its_lineage() -> None:
    model = random_model("relu")
    frequency, maximum = torch.rand(40).double(), torch.rand(40)
    metrics = {"l0": 4.0, "explained_variance": float("nan")}
    known = with_statistics(model, frequency, maximum, metrics)
    assert known.frequency.dtype == torch.float32
    torch.testing.assert_close(known.frequency.double(), frequency)
    assert torch.equal(known.maximum, maximum)
    assert known.config.lineage.metrics == {"fvu": 0.25, "l0": 4.0}
    assert dataclasses.replace(known, config=model.config).W_enc is model.W_enc


def test_statistics_of_another_width_are_refused() -> None:
    with pytest.raises(DataMismatchError, match="frequency has shape"):
        with_statistics(random_model("relu"), torch.zeros(3), torch.zeros(40))
