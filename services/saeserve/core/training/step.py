"""One optimiser step, as pure as in-place updates allow; nothing here synchronises.

Order (Gao et al. 2024, appendix A.1): gradients, summed over micro-batches; unit rows' gradients
projected; global norm of what is left; clip; Adam; rows renormalised; dead counters; and last the
order of the latents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    StepOutput,
    Tensors,
)
from saeserve.core.ops.rows import accumulate
from saeserve.core.ops.update import Optimizer, update_
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.training import dead
from saeserve.core.training.meter import of_batch, spread
from saeserve.core.training.state import TrainerState


@dataclass
class Sums:
    """Gradients and statistics summed over a batch's micro-batches."""

    gradients: Tensors
    metrics: Tensors
    fired_F: Tensor
    """Empty before the first micro-batch."""
    rows: int


@dataclass(frozen=True)
class Done:
    """What a step leaves besides the state's tensors."""

    metrics: Tensors
    """float64 scalars for the meter."""
    l0: Tensor
    """The batch's mean, a scalar on the device."""
    rows: int


def take_step(
    architecture: Architecture[Any],
    spec: ArchitectureSpec,
    state: TrainerState,
    batches: Iterable[Batch],
    ctx: Context,
    optimizer: Optimizer,
) -> Tensor:
    """Update `state` in place by one step on `batches`, micro-batches of equal size.

    Returns the batch's mean L0, a scalar on the device.
    """
    done = compute_(architecture, spec, state, batches, ctx, optimizer)
    conclude_(architecture, spec, state, done)
    return done.l0


def compute_(
    architecture: Architecture[Any],
    spec: ArchitectureSpec,
    state: TrainerState,
    batches: Iterable[Batch],
    ctx: Context,
    optimizer: Optimizer,
) -> Done:
    """The part of a step that the device does, and a graph can record: parameters, moments, dead
    counters and what the architecture carries move in place. `ctx.step` is the step's number
    unless `optimizer.rates_R` is set."""
    sums = _sum_gradients(architecture, spec, state, batches, ctx)
    norm = update_(
        state.params,
        sums.gradients,
        state.moments,
        architecture.unit_rows(spec),
        optimizer,
        ctx.step,
    )
    counters = (state.tokens_since_fired_F, state.tokens_since_fired_or_resampled_F)
    dead.update_both_(counters, sums.fired_F, sums.rows)
    found = {**sums.metrics, "grad_norm": norm}
    metrics = {name: value.detach().double() for name, value in found.items()}
    return Done(metrics, sums.metrics["fired"] / sums.rows, sums.rows)


def conclude_(
    architecture: Architecture[Any], spec: ArchitectureSpec, state: TrainerState, done: Done
) -> None:
    """The rest of a step, whose device's part is `done`: sums for the next report, the host's
    counts, and the order of the latents."""
    state.meter.add({**done.metrics, "rows": done.rows, "steps": 1})
    state.step += 1
    state.tokens += done.rows
    _permute(architecture, spec, state)


def _permute(architecture: Architecture[Any], spec: ArchitectureSpec, state: TrainerState) -> None:
    """Reorder the latents where the architecture asks for it after this many steps."""
    permutation = architecture.permutation(spec, state.architecture, state.step)
    if permutation is not None:
        state.permute(permutation)


def _sum_gradients(
    architecture: Architecture[Any],
    spec: ArchitectureSpec,
    state: TrainerState,
    batches: Iterable[Batch],
    ctx: Context,
) -> Sums:
    """The gradient of the mean over micro-batches, and what the meter wants of the batch."""
    sums = Sums({}, {}, state.tokens_since_fired_F.new_empty(0), 0)
    micro_batches = 0
    for batch in batches:
        _include(sums, architecture, spec, state, batch, ctx)
        micro_batches += 1
    return _finish(sums, micro_batches)


def _include(
    sums: Sums,
    architecture: Architecture[Any],
    spec: ArchitectureSpec,
    state: TrainerState,
    batch: Batch,
    ctx: Context,
) -> None:
    """Add a micro-batch; its own gradients are let go of before the next one's are made."""
    output = architecture.gradients(spec, state.params, state.architecture, batch, ctx)
    state.carry(output.state)
    accumulate(sums.gradients, output.grads)
    fired_F = output.stats.fired_F
    sums.fired_F = sums.fired_F + fired_F if sums.rows else fired_F
    sums.rows += batch.x_BD.shape[0]
    _add(sums.metrics, _metrics(output, batch))


def _metrics(output: StepOutput, batch: Batch) -> Tensors:
    squares, sum_O = spread(batch.target_BO)
    return {
        "loss": output.loss,
        **{f"loss_{name}": term for name, term in output.terms.items()},
        "squared_error": output.stats.squared_error,
        "squares": squares,
        "sum_O": sum_O,
    }


def _finish(sums: Sums, micro_batches: int) -> Sums:
    """Means of what is a mean over rows; the target's variation around the batch's own mean."""
    metrics = sums.metrics
    spread_of = metrics.pop("squares"), metrics.pop("sum_O")
    metrics["variation"], metrics["fired"] = of_batch(*spread_of, sums.fired_F, sums.rows)
    if micro_batches > 1:
        for gradient in sums.gradients.values():
            gradient.div_(micro_batches)
        metrics |= {n: v / micro_batches for n, v in metrics.items() if n.startswith("loss")}
    return sums


def _add(total: Tensors, more: Tensors) -> None:
    for name, value in more.items():
        total[name] = total[name] + value if name in total else value
