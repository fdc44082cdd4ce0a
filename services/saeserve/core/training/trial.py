"""A GPU's kernels against plain torch, on the first rows of a run, before its first step.

Kernels that were compiled for one card, driver or release of Triton and computed right there may
not do so on another. So a run on a GPU begins with one comparison: gradients of its own parameters
on a few of its own rows, then an optimiser's step from those, by the kernels and by plain torch.
Where they differ, or a kernel raises, plain torch trains the run and a warning says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import Batch, Context, StepOutput, Tensors
from saeserve.core.architectures.registry import architecture_of
from saeserve.core.gpu.device import refuse, switched_off, usable_on_device
from saeserve.core.ops.adam import Moments
from saeserve.core.ops.update import Optimizer, update_
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.training.events import Warned
from saeserve.core.training.feed import Feed
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.state import TrainerState

ROWS = 64
"""Rows of each comparison."""
TRIES = 2
"""Two sums of one number, each with its own rounding, may part two latents that nearly tie; rows
that do so twice are not met by chance."""
LATENTS = 64
"""Rows of each parameter that the optimiser's step is tried on."""
TOLERANCE = 5e-3
"""Largest norm of a difference, relative to the norm. Products in float16 leave up to 1e-3, more
where a gradient is a sum of few terms, as by thresholds under a narrow band; what is computed wrong
differs by far more."""


def of(
    setup: TrainingSetup, state: TrainerState, context: Context, optimizer: Optimizer, feed: Feed
) -> tuple[Warned, ...]:
    """Where kernels of a GPU are about to train this run, compare them on rows that come next."""
    if not usable_on_device(*state.params.values()):
        return ()
    start = state.step * setup.spec.batch_size
    batches = [feed.read(start + number * ROWS, ROWS) for number in range(TRIES)]
    architecture, spec = architecture_of(setup.spec), setup.spec.architecture
    trial = Trial(architecture, spec, state.params, state.architecture, context, optimizer)
    return trial.warnings(batches, state.step)


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a run is about to do."""

    architecture: Architecture[Any]
    spec: ArchitectureSpec
    params: Tensors
    state: Tensors
    context: Context
    optimizer: Optimizer

    def warnings(self, batches: Sequence[Batch], step: int) -> tuple[Warned, ...]:
        """Compare on `batches`, of which one has to agree; where none does, plain torch computes
        in this process from now on, and a warning says so."""
        try:
            faults = [self._fault(batch) for batch in batches]
        except torch.OutOfMemoryError:
            # The step itself says more of memory than a comparison can.
            return ()
        except Exception as error:
            faults = [f"a kernel failed with {type(error).__name__}: {error}"]
        if not all(faults):
            return ()
        refuse(why := faults[0])
        message = f"plain torch computes this run, slower: the GPU's kernels do not agree: {why}"
        return (Warned(step, "GPU_KERNELS_OFF", message),)

    def _fault(self, batch: Batch) -> str:
        """What the kernels compute otherwise than plain torch; "" where nothing."""
        found = self._gradients(batch, self.context)
        with switched_off():
            written = self._gradients(
                batch, dataclasses.replace(self.context, encoder_dtype=torch.float32)
            )
        gradients = {name: (found.grads[name], value) for name, value in written.grads.items()}
        loss = {"loss": (found.loss, written.loss)}
        return _worst("the gradient of", loss | gradients) or self._fault_of_update(written.grads)

    def _gradients(self, batch: Batch, context: Context) -> StepOutput:
        return self.architecture.gradients(self.spec, self.params, self.state, batch, context)

    def _fault_of_update(self, gradients: Tensors) -> str:
        moved = self._moved(gradients)
        with switched_off():
            written = self._moved(gradients)
        return _worst("the new", {name: (moved[name], value) for name, value in written.items()})

    def _moved(self, gradients: Tensors) -> Tensors:
        """Some rows of the parameters after a step, and their moments; its own copies."""
        params = _copies(self.params)
        moments = Moments.zeros(params)
        unit = self.architecture.unit_rows(self.spec)
        update_(params, _copies(gradients), moments, unit, self.optimizer, 0)
        groups = {
            "": params,
            "first moment of ": moments.first,
            "second moment of ": moments.second,
        }
        return {
            f"{prefix}{name}": value
            for prefix, group in groups.items()
            for name, value in group.items()
        }


def _copies(named: Tensors) -> Tensors:
    return {name: value[:LATENTS].clone() for name, value in named.items()}


def _worst(what: str, pairs: dict[str, tuple[Tensor, Tensor]]) -> str:
    """Names the pair that differs most, if by more than TOLERANCE."""
    gaps = {name: _gap(*pair) for name, pair in pairs.items()}
    name = max(gaps, key=lambda each: gaps[each])
    return (
        f"{what} {name} differs by {gaps[name]:.1e} of its norm" if gaps[name] > TOLERANCE else ""
    )


def _gap(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|; of two that are not finite 0, of one infinite."""
    if not bool(torch.isfinite(wanted).all()):
        return 0.0 if not bool(torch.isfinite(found).all()) else torch.inf
    gap = float((found.double() - wanted.double()).square().sum().sqrt())
    scale = float(wanted.double().square().sum().sqrt())
    return torch.inf if gap != gap else gap / (scale or 1.0)
