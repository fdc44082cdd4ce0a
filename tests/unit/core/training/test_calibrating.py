"""The last correction of L0 on held-out rows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.architectures.evaluation_form import features_of
from saeserve.core.training.calibrating import calibrated, fitting_half, judged_half

ROWS, D, F = 2048, 16, 64


def rows(seed: int = 0) -> Tensor:
    return torch.randn(ROWS, D, generator=torch.Generator().manual_seed(seed))


def form_of(threshold: float | None, k: int | None = None) -> EvaluationForm:
    """Rows of decoder and encoder have lengths of their own; the last latent adds nothing."""
    draws = torch.Generator().manual_seed(7)
    W_dec = torch.randn(F, D, generator=draws)
    W_dec[-1] = 0
    return EvaluationForm(
        W_enc_FD=torch.randn(F, D, generator=draws),
        b_enc_F=torch.full((F,), -3.0),
        W_dec_FO=W_dec,
        b_dec_O=torch.zeros(D),
        threshold_F=None if threshold is None else torch.full((F,), threshold),
        k=k,
    )


def l0(form: EvaluationForm, x_BD: Tensor) -> float:
    """Without the last latent, which adds nothing."""
    return float((features_of(form, x_BD)[:, :-1] != 0).sum()) / len(x_BD)


@given(st.sampled_from([None, 0.0, 1.0, 3.0]), st.floats(0.9, 1.14))
def test_the_l0_is_the_one_asked_for_on_these_rows(threshold: float | None, ratio: float) -> None:
    """Except that thresholds of 0 cannot be lowered."""
    form, x_BD = form_of(threshold), rows()
    asked = l0(form, x_BD) / ratio
    found = calibrated(form, [x_BD[:700], x_BD[700:]], asked)
    assert found is not None
    assert (found.threshold_F is None) == (threshold is None)
    if threshold != 0 or ratio >= 1:
        assert l0(found, x_BD) == pytest.approx(asked, rel=2e-3)


@given(st.integers(0, 9))
def test_each_row_is_fitted_on_or_judged_but_not_both(count: int) -> None:
    block_BD = torch.arange(count)[:, None]
    assert torch.equal(torch.cat([fitting_half(block_BD), judged_half(block_BD)]), block_BD)


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.2, 3.0])
def test_a_large_miss_is_left_as_it_is_to_be_seen(ratio: float) -> None:
    form, x_BD = form_of(1.0), rows()
    assert calibrated(form, [x_BD], l0(form, x_BD) / ratio) is None


def test_few_rows_and_a_k_of_each_row_change_nothing() -> None:
    x_BD = rows()
    few, k = form_of(1.0), form_of(None, k=4)
    assert calibrated(few, [x_BD[:1000]], l0(few, x_BD) * 1.1) is None
    assert calibrated(k, [x_BD], 3.8) is None


def test_rows_on_which_nothing_fires_change_nothing() -> None:
    silent = dataclasses.replace(form_of(None), b_enc_F=torch.full((F,), -1e6))
    assert calibrated(silent, [rows()], 5.0) is None


def test_latents_are_shifted_by_what_they_add_to_the_reconstruction() -> None:
    form, x_BD = form_of(1.0), rows()
    found = calibrated(form, [x_BD], l0(form, x_BD) * 0.9)
    assert found is not None
    assert found.threshold_F is not None
    assert form.threshold_F is not None
    shift_F = found.threshold_F - form.threshold_F
    added_F = shift_F * form.W_dec_FO.square().sum(dim=1).sqrt()
    added = [float(value) for value in added_F]
    assert added[-1] == 0
    assert added[0] > 0
    assert added[:-1] == pytest.approx([added[0]] * (F - 1), rel=1e-4)


@pytest.mark.parametrize("ratio", [0.9, 1.12])
def test_biases_are_shifted_without_shortening_what_fires(ratio: float) -> None:
    """The sum of what latents add to the reconstruction stays, row by row on average."""
    form, x_BD = form_of(None), rows()
    found = calibrated(form, [x_BD], l0(form, x_BD) / ratio)
    assert found is not None
    norm_F = form.W_dec_FO.square().sum(dim=1).sqrt()
    before, after = (float((features_of(each, x_BD) * norm_F).sum()) for each in (form, found))
    assert after == pytest.approx(before, rel=1e-3)
