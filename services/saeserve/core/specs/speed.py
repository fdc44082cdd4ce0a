"""How fast a run would train, from steps that the machine measured: arithmetic, no timing.

A step takes rows x (seconds a row) + (seconds a step). Both were measured at one small shape
(`StepTiming`); here they are scaled to another. The second grows as the parameters do: the
optimiser passes over them. Of the first, dense products take what the machine's measured rates
say and grow as they do; what is left is work on [rows, d_sae] and on the active latents' rows, and
grows as `_Pattern` says. `make bench-memory` compares predictions with runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saeserve.core.specs.architectures import ARCHITECTURE_SPECS, BatchTopKSpec, TopKSpec
from saeserve.core.specs.machine import Machine, StepTiming
from saeserve.core.specs.sizes import TrainingData, micro_batch_of, parameter_count, parameters_of
from saeserve.core.specs.training import TrainSpec

ACCUMULATION = 0.3
"""Share of the time per step that each micro-batch after the first adds: its gradients are summed
(12 bytes a parameter) where the optimiser moves 28 and its guards 16."""


@dataclass(frozen=True)
class _Pattern:
    """What a step of an architecture does to a row, in units of its widths."""

    encoder_products: int
    """Dense products in the encoder's type, 2 d_in d_sae FLOP a row each."""
    other_products: int
    """Dense products in float32, 2 d_out d_sae FLOP a row each."""
    gathers: float
    """What a number of an active latent's rows costs, where one of [rows, d_sae] costs 1."""


_PATTERNS = {
    "topk": _Pattern(1, 0, 0.2),
    "batchtopk": _Pattern(1, 0, 0.2),
    "matryoshka": _Pattern(1, 0, 0.2),
    "jumprelu": _Pattern(2, 3, 0.0),
    "relu": _Pattern(2, 3, 0.0),
    "gated": _Pattern(3, 5, 0.0),
}
"""From the losses: a TopK model has one dense product and works on entries otherwise (choosing
takes about 8 ns a latent on one Zen 4 core, the entries' products 1.8 ns a number). The dense ones
differentiate W_enc x and f W_dec: five products, and gated, with a second reconstruction and a
bias in its input, eight."""


@dataclass(frozen=True)
class _Shape:
    """The widths that a row's cost depends on."""

    architecture: str
    d_in: int
    d_out: int
    d_sae: int
    active: float
    encoder_dtype: str


def seconds_per_step(spec: TrainSpec, data: TrainingData, machine: Machine) -> float | None:
    """Of a resolved spec; None where the machine has not measured its architecture."""
    timing = machine.timing(spec.architecture.name)
    if timing is None:
        return None
    batches = -(-spec.batch_size // micro_batch_of(spec))
    measured_at = parameter_count(timing.architecture, timing.d_in, timing.d_sae)
    passes = (1 + ACCUMULATION * (batches - 1)) * parameters_of(spec, data) / measured_at
    row = _row_seconds(spec, data, machine, timing)
    return spec.batch_size * row + timing.seconds_per_step * passes


def training_seconds(
    members: Sequence[TrainSpec], data: TrainingData, machine: Machine
) -> float | None:
    """All steps of runs that step in turn; None where one cannot be told."""
    total = 0.0
    for spec in members:
        step = seconds_per_step(spec, data, machine)
        if step is None:
            return None
        total += step * spec.steps
    return total


def _row_seconds(
    spec: TrainSpec, data: TrainingData, machine: Machine, timing: StepTiming
) -> float:
    measured = _Shape(
        architecture=timing.architecture,
        d_in=timing.d_in,
        d_out=timing.d_in,
        d_sae=timing.d_sae,
        active=timing.active,
        encoder_dtype=timing.encoder_dtype,
    )
    wanted = _Shape(
        architecture=timing.architecture,
        d_in=data.d,
        d_out=data.d_out,
        d_sae=spec.d_sae,
        active=active_of(spec, timing.active),
        encoder_dtype=spec.encoder_dtype,
    )
    products = min(_products(measured, machine), timing.seconds_per_row)
    dearer = _products(wanted, machine) / _products(measured, machine)
    rest = timing.seconds_per_row - products
    return products * dearer + rest * _numbers(wanted) / _numbers(measured)


def active_of(spec: TrainSpec, otherwise: float) -> float:
    """Latents a row that the spec asks for, else `otherwise`."""
    chosen = spec.architecture
    if isinstance(chosen, TopKSpec):
        return chosen.k * (4 if chosen.multi_topk_coefficient else 1)
    if isinstance(chosen, BatchTopKSpec):
        return chosen.k
    return spec.target_l0 or otherwise


def _products(shape: _Shape, machine: Machine) -> float:
    """Seconds a row of all dense products."""
    pattern = _PATTERNS[shape.architecture]
    rate = encoder_flops(shape.architecture, shape.encoder_dtype, machine)
    encoder = pattern.encoder_products * 2 * shape.d_in * shape.d_sae / rate
    return encoder + pattern.other_products * 2 * shape.d_out * shape.d_sae / machine.float32_flops


def _numbers(shape: _Shape) -> float:
    """Numbers of a row that the rest of a step works on, weighed."""
    gathered = _PATTERNS[shape.architecture].gathers * shape.active * (shape.d_in + shape.d_out) / 2
    return shape.d_sae + gathered


def encoder_flops(architecture: str, dtype: str, machine: Machine) -> float:
    """The rate of the encoder's product; `auto` is float32 where rounding would choose latents,
    else what is faster."""
    rates = {"float32": machine.float32_flops, "bfloat16": machine.bfloat16_flops}
    if dtype == "auto" and not ARCHITECTURE_SPECS[architecture].exact_choice:
        return machine.float32_flops
    return rates.get(dtype, max(rates.values()))
