"""Whether a run has the L0 that it was asked for, and came by it honestly (RECIPES).

The evaluation form's L0 shall be within 5 % of the target. Where that form has a calibrated
threshold in place of a batch's own choice (BatchTopK), calibrating shall have moved L0 by at most
15 % and raised the FVU by at most 2 %: else the number is bought, not trained. For architectures
that train row by row both forms are the same, and nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from saeserve.core.architectures.applied import features_of, reconstruction_of
from saeserve.core.architectures.contract import (
    Architecture,
    Batch,
    Context,
    EvaluationForm,
    Stats,
)
from saeserve.core.specs.architectures import ArchitectureSpec
from saeserve.core.training.events import Warned
from saeserve.core.training.state import TrainerState

LARGEST_MISS = 0.05
LARGEST_MOVE = 0.15
LARGEST_RISE = 0.02


@dataclass(frozen=True)
class Sparsity:
    """L0 and squared error of both forms on the same rows."""

    target_l0: float
    l0: float
    """Of the evaluation form."""
    training_l0: float
    fvu_ratio: float
    """Squared error of the evaluation form over that of the training form; 1 where both are 0."""

    def metrics(self) -> dict[str, float]:
        """The figures by name, all relative."""
        return {
            "l0_miss": self.l0 / self.target_l0 - 1,
            "l0_moved": self.l0 / self.training_l0 - 1 if self.training_l0 else 0.0,
            "fvu_raised": self.fvu_ratio - 1,
        }

    def warnings(self, step: int) -> Iterator[Warned]:
        """What a reader of the results should know."""
        found = self.metrics()
        if abs(found["l0_miss"]) > LARGEST_MISS:
            message = (
                f"the evaluation form has L0 {self.l0:.4g}, target_l0 is {self.target_l0:g}: train "
                "longer, raise optimizer.lr, or start nearer to the target"
            )
            yield Warned(step, "TARGET_L0_MISSED", message)
        if abs(found["l0_moved"]) > LARGEST_MOVE:
            message = f"calibrating the threshold moved L0 by {found['l0_moved']:+.1%}"
            yield Warned(step, "CALIBRATION_MOVED_L0", message)
        if found["fvu_raised"] > LARGEST_RISE:
            message = f"calibrating the threshold raised the FVU by {found['fvu_raised']:.1%}"
            yield Warned(step, "CALIBRATION_RAISED_FVU", message)


def training_form(
    architecture: Architecture[Any], spec: ArchitectureSpec, state: TrainerState, ctx: Context
) -> Callable[[Batch], Stats]:
    """What a step would see of a batch. What is active is float32's, whatever type steps use."""
    exact = replace(ctx, encoder_dtype=torch.float32)

    @torch.no_grad()
    def stats(batch: Batch) -> Stats:
        return architecture.loss(spec, state.params, state.architecture, batch, exact).stats

    return stats


def judge(
    target_l0: float,
    form: EvaluationForm,
    trained: Callable[[Batch], Stats],
    batches: Iterable[Batch],
) -> Sparsity:
    """Compare `form` with the training form on the same batches (at least one row)."""
    fired, error, training_fired, training_error, rows = 0, 0.0, 0, 0.0, 0
    for batch in batches:
        stats = trained(batch)
        f_BF = features_of(form, batch.x_BD)
        residual_BO = batch.target_BO - reconstruction_of(form, batch.x_BD, f_BF)
        fired += int((f_BF != 0).sum())
        error += float(residual_BO.double().square().sum())
        training_fired += int(stats.fired_F.sum())
        training_error += float(stats.squared_error)
        rows += batch.x_BD.shape[0]
    ratio = error / training_error if training_error else 1.0
    return Sparsity(target_l0, fired / rows, training_fired / rows, ratio)
