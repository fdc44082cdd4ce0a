"""The last correction of L0: training rows and held-out rows differ.

An SAE fits the rows that it was trained on, and other documents have other features: on held-out
rows of a language model L0 lies several per cent above that of the training rows, whatever the
controller does. Where an L0 was asked for, the exported form's thresholds are therefore shifted
until L0 is met on held-out rows: one number for all latents, in units of what a latent adds to the
reconstruction (pre-activation times the norm of its decoder row). Where a model has no thresholds,
its biases are shifted; one factor for all latents then restores the sum of what they add. Only a
small correction is one of the rows; a larger one would hide an SAE that was not trained to its L0,
and is left undone (docs/RECIPES.md, "Sparsity is asked for, not tuned"). The shift is fitted on the
first half of each block of held-out rows, and the closing figures come from the second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.ops.norms import SMALLEST_NORM

LARGEST_MOVE = 0.15
"""Largest relative change of L0."""
LEAST_ROWS = 1024
BINS = 8192


def calibrated(
    form: EvaluationForm, blocks: Iterable[Tensor], asked_l0: float
) -> EvaluationForm | None:
    """`form` with the mean L0 `asked_l0` on these prepared rows [B, D].

    None, for the form as it is, where each row has its own k, where there are fewer than LEAST_ROWS
    rows, and where L0 would have to move by more than LARGEST_MOVE.
    """
    if form.k is not None:
        return None
    margins = _Margins(form)
    for x_BD in blocks:
        margins.add(x_BD)
    if margins.rows < LEAST_ROWS or abs(margins.l0 / asked_l0 - 1) > LARGEST_MOVE:
        return None
    return _shifted(form, margins, margins.level_of(asked_l0))


def whole(block_BD: Tensor) -> Tensor:
    """All rows of a held-out block, where nothing was fitted on any."""
    return block_BD


def fitting_half(block_BD: Tensor) -> Tensor:
    """The rows of a held-out block [B, D] on which thresholds are shifted."""
    return block_BD[: len(block_BD) // 2]


def judged_half(block_BD: Tensor) -> Tensor:
    """Its other rows [B, D], of other documents but for one at the cut."""
    return block_BD[len(block_BD) // 2 :]


class _Margins:
    """A histogram of how far pre-activations lie from firing, around 0."""

    def __init__(self, form: EvaluationForm) -> None:
        self._form = form
        self.norm_F = form.W_dec_FO.square().sum(dim=1).sqrt()
        self.rows = 0
        self._fired = 0
        self._above = 0
        self._above_sum = 0.0
        self._reach = 0.0
        self._counts = torch.zeros(BINS, dtype=torch.float64)

    @property
    def l0(self) -> float:
        """L0 of the form with its present threshold."""
        return self._fired / self.rows

    def add(self, x_BD: Tensor) -> None:
        form = self._form
        h_BF = torch.addmm(form.b_enc_F, x_BD, form.W_enc_FD.T)
        margin_BF = (h_BF if form.threshold_F is None else h_BF - form.threshold_F) * self.norm_F
        # Latents that add nothing are exported as dead; a threshold is never below 0.
        margin_BF = torch.where(self.norm_F > SMALLEST_NORM, margin_BF, -torch.inf)
        if form.threshold_F is not None:
            margin_BF = torch.where(h_BF > 0, margin_BF, -torch.inf)
        fired = margin_BF > 0
        self._reach = self._reach or float(margin_BF[fired].mean() if bool(fired.any()) else 1.0)
        self._counts += torch.histc(margin_BF, BINS, -self._reach, self._reach).cpu().double()
        above = margin_BF > self._reach
        self._above += int(above.sum())
        self._above_sum += float(margin_BF[above].double().sum())
        self._fired += int(fired.sum())
        self.rows += x_BD.shape[0]

    def level_of(self, asked_l0: float) -> float:
        """The margin that so many pre-activations a row exceed: the nearest edge of a bin."""
        exceeding = self._above + self._counts.flip(0).cumsum(0).flip(0)
        nearest = int((exceeding - asked_l0 * self.rows).abs().argmin())
        return self._reach * (2 * nearest / BINS - 1)

    def total(self, level: float) -> float:
        """The sum of what exceeds `level` (within the reach), by how much; to a bin's width."""
        width = 2 * self._reach / BINS
        centre = (torch.arange(BINS, dtype=torch.float64) + 0.5) * width - self._reach
        within = (self._counts * (centre - level).clamp_min(0)).sum()
        return float(within) + self._above_sum - self._above * level


def _shifted(form: EvaluationForm, margins: _Margins, level: float) -> EvaluationForm:
    """Latents fire where their margin exceeds `level`; those that add nothing stay as they are."""
    adds_F = margins.norm_F > SMALLEST_NORM
    shift_F = torch.where(adds_F, level / margins.norm_F.clamp_min(SMALLEST_NORM), 0.0)
    if form.threshold_F is not None:
        return dataclasses.replace(form, threshold_F=(form.threshold_F + shift_F).clamp_min(0))
    factor_F = torch.where(adds_F, margins.total(0) / margins.total(level), 1.0)
    return dataclasses.replace(
        form,
        W_enc_FD=form.W_enc_FD * factor_F[:, None],
        b_enc_F=(form.b_enc_F - shift_F) * factor_F,
    )
