"""The weight or goal of a sparsity penalty: a ramp, or what `target_l0`'s controller asks."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from saeserve.core.architectures.contract import Context, Recordable
from saeserve.core.specs.architectures.base import PenaltySpec
from saeserve.errors import SpecError

WEIGHT = "sparsity_coefficient"
"""Name of the weight among the architecture's schedules."""


def warmed(full: float, fraction: float, step: int, steps: int) -> dict[str, float]:
    """The schedule of a weight that rises linearly from 0 to `full` over `fraction` of the run.

    With fraction 1 it is 0 at the first step and `full` at the last.
    """
    warm_steps = min(fraction * steps, steps - 1)
    return {WEIGHT: full * min(1.0, step / warm_steps) if warm_steps > 0 else full}


def weight(spec: PenaltySpec, ctx: Context) -> float | Tensor:
    """lambda of this step; under `target_l0` the full value times the controller's factor."""
    if ctx.control is None:
        return ctx.numbers[WEIGHT] if WEIGHT in ctx.numbers else ctx.scheduled[WEIGHT]
    return spec.sparsity_coefficient * ctx.control.factor


def goal(ctx: Context) -> Tensor:
    """The L0 that a quadratic penalty holds: the path's, over the controller's factor.

    Raises SpecError without `target_l0`.
    """
    if ctx.control is None:
        raise SpecError(
            "train.target_l0", "is what a quadratic penalty needs", remedy="set target_l0"
        )
    return ctx.control.l0 / ctx.control.factor


def times_weight(spec: PenaltySpec, ctx: Context, measure: Tensor) -> Tensor:
    """A scalar measure times lambda."""
    return ramped(ctx, measure) if ctx.control is None else weight(spec, ctx) * measure


def ramped(ctx: Context, measure: Tensor) -> Tensor:
    """A scalar measure times the weight of its schedule, in the measure's type."""
    if WEIGHT in ctx.numbers:
        return ctx.numbers[WEIGHT].to(measure.dtype) * measure
    return ctx.scheduled[WEIGHT] * measure


def recordable(spec: PenaltySpec, ctx: Context) -> Recordable | None:
    """`Architecture.recordable` where gradients read the weight and no step; None with AuxK, which
    has no kernels."""
    if not spec.gpu_kernels:
        return None
    scheduled = {name: value for name, value in ctx.scheduled.items() if name != WEIGHT}
    numbers = {name: value for name, value in ctx.scheduled.items() if name == WEIGHT}
    return Recordable(
        dataclasses.replace(ctx, step=0, dead_bound=None, scheduled=scheduled), numbers
    )
