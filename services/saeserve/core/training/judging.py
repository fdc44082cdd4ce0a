"""How a run's evaluation form does, compared with the form that was trained.

Where the evaluation form has a calibrated threshold, in place of a batch's own choice
or for rows that were not trained on (`calibrating`), that must have moved L0 by at most 15 % and
raised the FVU by at most 2 % more than so many active latents fewer cost anyway: else the L0 is had
by the threshold alone (docs/RECIPES.md, "Sparsity is asked for, not tuned"). What else a reader
must be warned of: `specs.closing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    EvaluationForm,
    Stats,
    Tensors,
)
from saeserve.core.architectures.evaluation_form import features_of, reconstruction_of
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.specs.run_warning import RunWarning
from saeserve.core.training.calibrating import LARGEST_MOVE
from saeserve.core.training.meter import spread, variation
from saeserve.core.training.state import TrainerState

JUDGED_ROWS = 8192
"""Rows on which a run is judged that holds none out: those that would have come next."""
LARGEST_RISE = 0.02
FVU_BY_L0 = -0.4
"""FVU goes about as L0 to this power: between -0.33 and -0.50 where SAEs of one architecture were
trained to L0 32, 64 and 128 (bench/results/achieved_l0.json)."""


@dataclass(frozen=True)
class Judged:
    """Figures of both forms on the same rows."""

    fvu: float
    """FVU of the evaluation form, with these rows' own mean; NaN where they do not vary."""
    l0: float
    """L0 of the evaluation form."""
    training_l0: float
    fvu_ratio: float
    """Squared error of the evaluation form over that of the training form; 1 where both are 0."""

    def metrics(self) -> dict[str, float]:
        """What calibrating changed, by name, all relative."""
        return {
            "l0_moved": self.l0 / self.training_l0 - 1 if self.training_l0 else 0.0,
            "fvu_raised": self.fvu_ratio - 1,
        }

    def warnings(self) -> tuple[RunWarning, ...]:
        """What calibrating a threshold has changed more than it should."""
        found = self.metrics()
        told: list[RunWarning] = []
        if abs(found["l0_moved"]) > LARGEST_MOVE:
            message = f"calibrating the threshold moved L0 by {found['l0_moved']:+.1%}"
            told.append(RunWarning(code="CALIBRATION_MOVED_L0", message=message))
        if self.fvu_ratio > (1 + LARGEST_RISE) * self._fvu_ratio_of_l0():
            message = (
                f"calibrating the threshold raised the FVU by {found['fvu_raised']:.1%}, more than "
                f"an L0 that moved by {found['l0_moved']:+.1%} accounts for"
            )
            told.append(RunWarning(code="CALIBRATION_RAISED_FVU", message=message))
        return tuple(told)

    def _fvu_ratio_of_l0(self) -> float:
        """What SAEs trained to both L0 would differ by; 1 where the L0 has not fallen."""
        if not 0 < self.l0 < self.training_l0:
            return 1.0
        return (self.l0 / self.training_l0) ** FVU_BY_L0


def training_form(
    architecture: Architecture[Any], spec: ArchitectureSpec, state: TrainerState, ctx: Context
) -> Callable[[Batch], Stats]:
    """What a step would see of a batch. What is active is float32's, whatever type steps use."""
    exact = replace(ctx, encoder_dtype=torch.float32)

    @torch.no_grad()
    def stats(batch: Batch) -> Stats:
        return architecture.autograd_loss(
            spec, state.params, state.architecture, batch, exact
        ).stats

    return stats


def judge(
    form: EvaluationForm, trained: Callable[[Batch], Stats], batches: Iterable[Batch]
) -> Judged:
    """Compare `form` with the training form on the same batches (at least one row)."""
    seen, rows = _Sums(), 0
    for batch in batches:
        stats = trained(batch)
        f_BF = features_of(form, batch.x_BD)
        residual_BO = batch.target_BO - reconstruction_of(form, batch.x_BD, f_BF)
        squares, sum_O = spread(batch.target_BO)
        seen.add(
            fired=(f_BF != 0).sum(),
            error=residual_BO.double().square().sum(),
            training_fired=stats.fired_F.sum(),
            training_error=stats.squared_error,
            squares=squares,
            sum_O=sum_O,
        )
        rows += batch.x_BD.shape[0]
    return seen.judged(rows)


class _Sums:
    """float64 sums by name over batches."""

    def __init__(self) -> None:
        self._sums: Tensors = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            amount = value.detach().double()
            self._sums[name] = self._sums[name] + amount if name in self._sums else amount

    def judged(self, rows: int) -> Judged:
        sums = self._sums
        varied = float(variation(sums["squares"], sums["sum_O"], rows))
        error, training_error = float(sums["error"]), float(sums["training_error"])
        return Judged(
            fvu=error / varied if varied > 0 else math.nan,
            l0=float(sums["fired"]) / rows,
            training_l0=float(sums["training_fired"]) / rows,
            fvu_ratio=error / training_error if training_error else 1.0,
        )
