"""Reconstruction figures against direct computations on all rows at once."""

import dataclasses
import math

import pytest
import torch
from tests.fakes.sae import generator, random_model
from torch import Tensor

from saeserve.core.evaluation.reconstruction import evaluate_reconstruction
from saeserve.core.export.inference_model import InferenceModel
from saeserve.errors import DataError, DataMismatchError

ROWS = 3 * torch.randn(101, 12, generator=generator(4)) + 1


def _fvu(model: InferenceModel, x_BD: Tensor) -> float:
    x, y = x_BD.double(), model.reconstruct(x_BD).double()
    return float((x - y).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize("batch", [1, 7, 101])
def test_streaming_changes_no_figure(batch: int) -> None:
    model = random_model("threshold")
    report = evaluate_reconstruction(model, ROWS.split_with_sizes(_sizes(batch)))
    f_BF = model.encode_dense(ROWS)
    assert report.fvu == pytest.approx(_fvu(model, ROWS), rel=1e-5)
    assert report.explained_variance == 1 - report.fvu
    assert report.rows == 101
    assert report.l0 == int((f_BF != 0).sum()) / 101
    torch.testing.assert_close(report.frequency_F, (f_BF != 0).float().mean(0))
    torch.testing.assert_close(report.maximum_F, f_BF.amax(0), rtol=1e-5, atol=1e-5)


def _sizes(batch: int) -> list[int]:
    return [batch] * (101 // batch) + ([101 % batch] if 101 % batch else [])


def test_fvu_survives_a_mean_far_from_the_origin() -> None:
    model = dataclasses.replace(random_model("relu"), b_dec=torch.zeros(12))
    silent = dataclasses.replace(model, b_enc=torch.full((40,), -1e9))
    far_BD = (ROWS * 1e-2 + 1e3).float()
    x = far_BD.double()
    expected = float(x.square().sum() / (x - x.mean(0)).square().sum())
    report = evaluate_reconstruction(silent, [far_BD[:50], far_BD[50:]])
    assert report.fvu == pytest.approx(expected, rel=1e-9)


def test_predicting_the_mean_leaves_all_variance_unexplained() -> None:
    model = random_model("relu")
    mean = dataclasses.replace(model, b_enc=torch.full((40,), -1e9), b_dec=ROWS.mean(0))
    report = evaluate_reconstruction(mean, [ROWS])
    assert report.fvu == pytest.approx(1, abs=1e-6)
    assert (report.l0, report.silent) == (0, 1)
    assert [bin.latents for bin in report.density] == [0] * len(report.density)


def test_silent_counts_latents_that_never_fired() -> None:
    model = random_model("threshold")
    assert model.threshold is not None
    model.threshold[:10] = torch.inf
    report = evaluate_reconstruction(model, [ROWS])
    fired = int((report.frequency_F > 0).sum())
    assert report.silent == 1 - fired / 40
    assert report.silent >= 0.25
    assert sum(bin.latents for bin in report.density) == fired
    assert report.metrics()["silent_on_heldout"] == report.silent


def test_rows_that_do_not_vary_have_no_fvu() -> None:
    report = evaluate_reconstruction(random_model("relu"), [ROWS[:1].expand(4, 12)])
    assert math.isnan(report.fvu)


def test_empty_batches_are_passed_over() -> None:
    model = random_model("relu")
    report = evaluate_reconstruction(model, [ROWS[:0], ROWS, ROWS[:0]])
    assert report.fvu == evaluate_reconstruction(model, [ROWS]).fvu


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="no rows to evaluate"):
        evaluate_reconstruction(random_model("relu"), [ROWS[:0]])


def test_rows_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(DataMismatchError, match=r"rows of width 11 .* 12 dimensions to 12"):
        evaluate_reconstruction(random_model("relu"), [ROWS[:, :11]])
