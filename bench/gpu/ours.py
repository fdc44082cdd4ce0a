"""Our trainer on rows that lie on the device, through its public parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from bench import ours
from bench.gpu.lab import Shape
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Context, Dimensions, StepOutput
from saeserve.core.architectures.registry import architecture_of
from saeserve.core.data.prepared import AsTheyAre
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training import dead
from saeserve.core.training.setup import OneRank, TrainingSetup
from saeserve.core.training.sparsity import Controller
from saeserve.core.training.trainer import Trainer

NEVER = 1_000_000
"""Steps of a run that is only timed: no schedule ends and no report comes."""
SAMPLE_ROWS = 2048


class DeviceRows:
    """A source whose rows lie on one device; the sample is on the CPU, as everywhere."""

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self.device = x.device
        self.d, self.rows = x.shape[1], x.shape[0]

    def batch(self, position: int, size: int) -> Tensor:
        """Rows from `position` on, from the start again after the last."""
        start = position % self.rows
        if start + size <= self.rows:
            return self._x[start : start + size]
        return torch.cat([self._x[start:], self.batch(0, size - (self.rows - start))])

    def sample(self, n: int, seed: int) -> Tensor:  # noqa: ARG002 - the source's signature
        """The first rows."""
        return self._x[: min(n, SAMPLE_ROWS, self.rows)].cpu()


def spec_of(
    fields: Mapping[str, Any], shape: Shape, *, steps: int, dtype: str, all_dead: bool = False
) -> TrainSpec:
    """A resolved spec; with `all_dead` latents count as dead at once, so that AuxK works."""
    known = {
        "d_sae": shape.m,
        "tokens": steps * shape.batch,
        "batch_size": shape.batch,
        "encoder_dtype": dtype,
        "log_every_steps": NEVER,
        "checkpoint_every_steps": NEVER,
    }
    spec = ours.resolved(known | dict(fields), shape.d)
    return spec.model_copy(update={"dead_window_tokens": 1}) if all_dead else spec


def trainer_of(spec: TrainSpec, x: Tensor, device: torch.device, *, graphs: bool = True) -> Trainer:
    """A trainer at step 0; with `graphs` its steps are recorded where the device can."""
    source = DeviceRows(x)
    dims = Dimensions(source.d, source.d, spec.d_sae)
    return Trainer.start(TrainingSetup(spec, dims, source, AsTheyAre(), device, graphs=graphs))


def advance(trainer: Trainer, steps: int) -> None:
    """Take steps, and read what they report."""
    for _ in range(steps):
        for _report in trainer.advance():
            pass


def gradients(trainer: Trainer, x: Tensor, dtype: torch.dtype) -> StepOutput:
    """Loss, gradients and statistics of `x` at the trainer's state, which does not move."""
    spec, state = trainer.spec, trainer.state
    architecture = architecture_of(spec)
    controller = Controller(spec)
    scheduled = architecture.scheduled(spec.architecture, trainer.step, spec.steps)
    context = Context(
        step=trainer.step,
        steps=spec.steps,
        scheduled={n: v for n, v in scheduled.items() if n != controller.replaces},
        dead_F=dead.mask(state.tokens_since_fired_F, spec.dead_window_tokens),
        seed=spec.seed,
        collective=OneRank(),
        encoder_dtype=dtype,
        control=controller.control(state.control, trainer.step),
    )
    return architecture.gradients(
        spec.architecture, state.params, state.architecture, Batch(x, x), context
    )
