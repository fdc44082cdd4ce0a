"""How fast a run would train, from jobs that were run: arithmetic, no timing.

A step costs rows x (dense products, and numbers that the rest works on) + passes of the optimiser
over the parameters. `cost` says what that takes on a nominal machine, in seconds; `kernel_speed`
says it of a step in a GPU's kernels. Real machines are faster or slower, and by how much the
finished jobs of an architecture on a machine kind tell. So only ratios of costs matter.
`make bench-memory` compares predictions with runs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from saeserve.core.planning import kernel_speed
from saeserve.core.planning.device_tensors import has_kernels
from saeserve.core.planning.machine import Machine, SpeedRecord, StepShape
from saeserve.core.planning.sizes import TrainingData, micro_batch_of, parameters_of
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.training import TrainSpec

ACCUMULATION = 0.3
"""Share of the time per step that each micro-batch after the first adds: its gradients are summed
(12 bytes a parameter) where the optimiser moves 28 and its guards 16."""
NEAREST = 5
"""Jobs of the nearest cost that a prediction is the median of: each shared its machine."""


@dataclass(frozen=True)
class Rates:
    """A nominal machine: FLOP a second of the products, and seconds of everything else."""

    float32_flops: float
    bfloat16_flops: float
    number_s: float
    """For a number of [rows, d_sae]."""
    parameter_s: float
    """For the optimiser and its guards: 44 bytes of memory traffic a parameter."""
    micro_batch_s: float
    """For a micro-batch whatever its size: on accelerators, launching its kernels."""


CPU = Rates(1.7e11, 4.1e11, 1.2e-9, 9e-10, 0.0)
"""Two threads of a Zen 4 server, measured."""
ACCELERATOR = Rates(5.1e13, 6.7e14, 1.2e-11, 1.3e-11, 8e-3)
"""One H200 that trains by plain torch, measured."""


def shape_of(spec: TrainSpec, data: TrainingData) -> StepShape:
    """Shape of a step of a resolved spec on its data."""
    return StepShape(
        architecture=spec.architecture.name,
        d_in=data.d,
        d_out=data.d_out,
        d_sae=spec.d_sae,
        parameters=parameters_of(spec, data),
        active=active_of(spec, 0.0),
        encoder_dtype=spec.encoder_dtype,
        batch_size=spec.batch_size,
        micro_batches=-(-spec.batch_size // micro_batch_of(spec)),
        reconstructions=spec.architecture.reconstructions,
        few_computed=spec.architecture.computes_few_entries,
        kernels=has_kernels(spec),
    )


def cost(shape: StepShape, rates: Rates) -> float:
    """Seconds of a step on the nominal machine."""
    row = _products(shape, rates) + _numbers(shape) * rates.number_s
    passes = 1 + ACCUMULATION * (shape.micro_batches - 1)
    fixed = shape.micro_batches * rates.micro_batch_s
    return shape.batch_size * row + passes * shape.parameters * rates.parameter_s + fixed


def cost_of(shape: StepShape, *, accelerated: bool) -> float:
    """Seconds of a step on the nominal machine that computes it as the real one does."""
    if accelerated and shape.kernels:
        return kernel_speed.seconds(shape)
    return cost(shape, ACCELERATOR if accelerated else CPU)


def nearest(
    spec: TrainSpec, data: TrainingData, machine: Machine, *, accelerated: bool
) -> list[tuple[SpeedRecord, float]]:
    """Jobs of the architecture whose cost is nearest, each with the seconds of a step that it
    predicts for a resolved spec; none where the machine's kind has run none."""
    wanted = shape_of(spec, data)
    seconds = cost_of(wanted, accelerated=accelerated)
    known = [
        (each, seconds / cost_of(each.shape, accelerated=accelerated))
        for each in machine.records
        if each.shape.architecture == wanted.architecture
    ]
    known.sort(key=lambda pair: abs(math.log(pair[1])))
    return [(each, each.seconds_per_step * ratio) for each, ratio in known[:NEAREST]]


def seconds_per_step(
    spec: TrainSpec, data: TrainingData, machine: Machine, *, accelerated: bool
) -> float | None:
    """Seconds of a step; None where no job of its architecture ran on the machine's kind."""
    found = nearest(spec, data, machine, accelerated=accelerated)
    return statistics.median(seconds for _, seconds in found) if found else None


def training_seconds(
    members: Sequence[TrainSpec], data: TrainingData, machine: Machine, *, accelerated: bool
) -> float | None:
    """All steps of runs that step in turn; None where one cannot be predicted."""
    total = 0.0
    for spec in members:
        step = seconds_per_step(spec, data, machine, accelerated=accelerated)
        if step is None:
            return None
        total += step * spec.steps
    return total


def active_of(spec: TrainSpec, otherwise: float) -> float:
    """Latents a row that the spec asks for, else `otherwise`."""
    return spec.architecture.active_latents or spec.target_l0 or otherwise


def _products(shape: StepShape, rates: Rates) -> float:
    """Seconds a row of all dense products."""
    pattern = ARCHITECTURE_SPECS[shape.architecture].cost
    rate = encoder_flops(shape.architecture, shape.encoder_dtype, rates)
    encoder = pattern.encoder_products * 2 * shape.d_in * shape.d_sae / rate
    return encoder + pattern.other_products * 2 * shape.d_out * shape.d_sae / rates.float32_flops


def _numbers(shape: StepShape) -> float:
    """Numbers of a row that the rest of a step works on, weighed."""
    gathers = ARCHITECTURE_SPECS[shape.architecture].cost.gathers
    gathered = gathers * shape.active * (shape.d_in + shape.d_out) / 2
    return shape.d_sae + gathered


def encoder_flops(architecture: str, dtype: str, rates: Rates) -> float:
    """The rate of the encoder's product; `auto` is float32 where rounding would choose latents,
    else what is faster."""
    known = {"float32": rates.float32_flops, "bfloat16": rates.bfloat16_flops}
    if dtype == "auto" and ARCHITECTURE_SPECS[architecture].exact_choice == "never":
        return rates.float32_flops
    return known.get(dtype, max(known.values()))
