"""One optimiser step, as pure as in-place updates allow; nothing here synchronises.

Order (Gao et al. 2024, appendix A.1): gradients, summed over micro-batches; unit rows' gradients
projected; global norm of what is left; clip; Adam; rows renormalised; dead counters; and last the
order of the latents.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def take_step(
    architecture: Architecture[Any],
    spec: ArchitectureSpec,
    state: TrainerState,
    batches: Iterator[Batch],
    ctx: Context,
    optimizer: Optimizer,
) -> Tensor:
    """Update `state` in place by one step on `batches`, micro-batches of equal size.

    Returns the batch's mean L0, a scalar on the device.
    """
    sums = _sum_gradients(architecture, spec, state, batches, ctx)
    norm = update_(
        state.params,
        sums.gradients,
        state.moments,
        architecture.unit_rows(spec),
        optimizer,
        state.step,
    )
    counters = (state.tokens_since_fired_F, state.tokens_since_fired_or_resampled_F)
    dead.update_both_(counters, sums.fired_F, sums.rows)
    state.meter.add({**sums.metrics, "grad_norm": norm, "rows": sums.rows, "steps": 1})
    state.step += 1
    state.tokens += sums.rows
    _permute(architecture, spec, state)
    return sums.metrics["fired"] / sums.rows


def _permute(architecture: Architecture[Any], spec: ArchitectureSpec, state: TrainerState) -> None:
    """Reorder the latents where the architecture asks for it after this many steps."""
    permutation = architecture.permutation(spec, state.architecture, state.step)
    if permutation is not None:
        state.permute(permutation)


def _sum_gradients(
    architecture: Architecture[Any],
    spec: ArchitectureSpec,
    state: TrainerState,
    batches: Iterator[Batch],
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
