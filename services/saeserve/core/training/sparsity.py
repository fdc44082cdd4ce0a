"""`target_l0` for architectures with a penalty: a controller in place of the weight's ramp.

The L0 of the batches is to follow a geometric path from the untrained model's to the target, which
it reaches at 80 % of the steps. The controller moves the log of a factor on the penalty: the
integral of the error, plus the error itself. Optimisers move L0 at a limited speed, so a plain
integral would swing; the error is therefore one of prediction, the log of the L0 that today's trend
gives `AHEAD` of the run from now against the path there. The factor is bounded, so that a path that
is too steep for the learning rate does not wind it up.

Gains are in shares of the run, found on SmolLM2 rows (runs of 600 to 1,000 steps, all penalties).
State, float64 scalars on the device, part of the checkpoint: `initial`, `last` and `level` (logs of
L0: at first, of the last batch, averaged), `slope` (a step), `integral`, `error`. Nothing here
synchronises but `values`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Control, EvaluationForm, Tensors
from saeserve.core.architectures.evaluation_form import features_of
from saeserve.core.architectures.penalty import WEIGHT
from saeserve.core.specs.architectures.base import PenaltySpec
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.schedules import learning_rate

REACHED = 0.8
"""Share of the run after which the path is at the target."""
AHEAD = 0.05
LEVEL_WINDOW = 0.02
SLOPE_WINDOW = 0.03
"""Shares of the run: of prediction, and of averaging L0 and its trend."""
INTEGRAL = 30.0
"""A constant error of 1 moves the log factor by this much over the run."""
LARGEST_ERROR = 1.0
LOG_FACTOR = (-12.0, 5.0)
SMALLEST_L0 = 1e-3
MOST_AUTHORITY = 3.0
"""While the learning rate falls the factor does less, so that it moves more, up to this."""


class Controller:
    """The controller of a run; it does nothing where L0 is not asked for, or is a k."""

    def __init__(self, spec: TrainSpec) -> None:
        """Take a resolved spec."""
        penalty = spec.architecture
        self._penalty = penalty if isinstance(penalty, PenaltySpec) else None
        self._target = spec.target_l0 if self._penalty is not None else None
        self.replaces = WEIGHT if self._target is not None else None
        """Name of the schedule whose place the controller takes."""
        self._steps = spec.steps
        self._decay_fraction = spec.optimizer.decay_fraction

    def start(self, form: EvaluationForm, batch: Batch) -> Tensors:
        """The state before the first step of a model that has this form; {} without controller."""
        if self._penalty is None or self._target is None:
            return {}
        fired = (features_of(form, batch.x_BD) != 0).sum()
        initial = _log(fired / batch.x_BD.shape[0])
        integral = torch.full_like(initial, math.log(self._penalty.first_factor))
        zero = torch.zeros_like(initial)
        return {
            "initial": initial,
            "last": initial.clone(),
            "level": initial.clone(),
            "slope": zero,
            "integral": integral,
            "error": zero.clone(),
        }

    def control(self, state: Tensors, steps_done: int) -> Control | None:
        """Control of the penalty in the next step; None without controller."""
        if self._target is None:
            return None
        log_factor = (state["integral"] + state["error"]).clamp(*LOG_FACTOR)
        return Control(log_factor.exp(), self._path(state, steps_done / self._steps).exp())

    def after_step(self, state: Tensors, l0: Tensor, steps_done: int) -> Tensors:
        """The state after a step whose batch had this mean L0; `steps_done` counts that step."""
        if self._target is None:
            return state
        done, last = steps_done / self._steps, _log(l0)
        level = torch.lerp(state["level"], last, self._rate(LEVEL_WINDOW))
        slope = torch.lerp(state["slope"], last - state["last"], self._rate(SLOPE_WINDOW))
        ahead = min(AHEAD, (1 - done) / 2)
        error = level + ahead * self._steps * slope - self._path(state, done + ahead)
        error = error.clamp(-LARGEST_ERROR, LARGEST_ERROR) * self._authority(steps_done)
        integral = state["integral"] + INTEGRAL / self._steps * error
        moved = {"last": last, "level": level, "slope": slope, "error": error}
        return {**state, **moved, "integral": integral.clamp(*LOG_FACTOR)}

    def figures(self, state: Tensors, steps_done: int) -> Tensors:
        """Factor and path as they stand, for a report; scalars on the device."""
        control = self.control(state, steps_done)
        if control is None:
            return {}
        return {"sparsity_factor": control.factor, "l0_path": control.l0}

    def _path(self, state: Tensors, done: float) -> Tensor:
        """log L0 of the path where `done` of the run (0 .. 1) is over."""
        target = torch.full_like(state["initial"], math.log(self._target or 1.0))
        return torch.lerp(state["initial"], target, min(1.0, done / REACHED))

    def _rate(self, window: float) -> float:
        return 1 / max(1.0, window * self._steps)

    def _authority(self, steps_done: int) -> float:
        """How much more the factor has to move, since the learning rate has fallen."""
        share = learning_rate(
            steps_done - 1,
            self._steps,
            peak=1.0,
            warmup_steps=0,
            decay_fraction=self._decay_fraction,
        )
        return min(MOST_AUTHORITY, 1 / share)


def _log(l0: Tensor) -> Tensor:
    return l0.double().clamp_min(SMALLEST_L0).log()
