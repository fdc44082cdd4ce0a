"""What looks wrong about a training run before it starts: warnings by code. None forbids the run.

Plain arithmetic on a resolved spec and its data set, so that control can warn at submit and the
worker where the data set was not there yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from saeserve.core.planning.sizes import TrainingData
from saeserve.core.specs.architectures.base import AuxKSpec, PenaltySpec
from saeserve.core.specs.run_warning import JobWarning, RunWarning
from saeserve.core.specs.training import TrainSpec

FEW_STEPS = 200
LITTLE_TRAVEL = 0.1
"""Sum of the rates over all steps, about as far as Adam can move a weight."""
MANY_EPOCHS = 4
LONG_WARMUP = 0.5
"""Share of the steps."""


def warnings_before(spec: TrainSpec, data: TrainingData | None) -> tuple[RunWarning, ...]:
    """Warnings of a resolved `spec` without a sweep, or of one member; those that depend on rows
    are left out without `data`."""
    found = [*_of_steps(spec), *_of_warmup(spec), *_of_sizes(spec)]
    if data is not None:
        found += [*_of_rows(spec, data), *_of_heldout(spec, data), *_of_penalty(spec, data)]
    return tuple(RunWarning(code=code, message=message) for code, message in found)


def warnings_of_job(
    members: Sequence[TrainSpec], data: TrainingData | None
) -> tuple[JobWarning, ...]:
    """Warnings of all resolved members; one that all share word for word is the job's."""
    found: dict[RunWarning, list[str]] = {}
    for spec in members:
        for warning in warnings_before(spec, data):
            found.setdefault(warning, []).append(spec.model)
    return tuple(
        JobWarning(code=each.code, message=each.message, member=member)
        for each, models in found.items()
        for member in ([""] if len(models) == len(members) else models)
    )


def travel_of(spec: TrainSpec) -> float:
    """Sum of the learning rates over all steps of a resolved spec."""
    adam = spec.optimizer
    ramps = min(adam.warmup_steps or 0, spec.steps) / 2 + adam.decay_fraction * spec.steps / 2
    return (adam.lr or 0.0) * max(0.0, spec.steps - ramps)


def _of_steps(spec: TrainSpec) -> Iterator[tuple[str, str]]:
    travel, rate = travel_of(spec), spec.optimizer.lr
    if spec.steps >= FEW_STEPS and (rate is None or travel >= LITTLE_TRAVEL):
        return
    at_rate = "" if rate is None else f" at a rate of {rate:.3g}"
    batch = max(1, spec.tokens // (5 * FEW_STEPS))
    ways = [f"lower batch_size to {batch}"] if batch < spec.batch_size else []
    ways += ["raise tokens"] if spec.steps < FEW_STEPS else ["raise tokens or optimizer.lr"]
    yield (
        "TOO_FEW_STEPS",
        f"{spec.steps} steps{at_rate} hardly move the initial weights: {' or '.join(ways)}",
    )


def _of_warmup(spec: TrainSpec) -> Iterator[tuple[str, str]]:
    warmup = spec.optimizer.warmup_steps or 0
    if warmup > LONG_WARMUP * spec.steps:
        yield (
            "WARMUP_TOO_LONG",
            f"optimizer.warmup_steps is {warmup} of {spec.steps} steps, so the rate reaches its "
            f"peak late or never: leave it unset, or set {max(1, spec.steps // 20)}",
        )


def _of_sizes(spec: TrainSpec) -> Iterator[tuple[str, str]]:
    chosen = spec.architecture
    k_aux = chosen.k_aux if isinstance(chosen, AuxKSpec) else None
    if k_aux is not None and k_aux > spec.d_sae:
        yield (
            "K_AUX_TOO_LARGE",
            f"{chosen.name}.k_aux = {k_aux} exceeds d_sae = {spec.d_sae}; all dead latents are "
            "taken: leave k_aux unset",
        )
    if spec.log_every_steps > spec.steps:
        yield (
            "LOG_EVERY_TOO_LARGE",
            f"log_every_steps = {spec.log_every_steps} exceeds the run's {spec.steps} steps, so "
            "figures are reported at the end alone",
        )


def _of_rows(spec: TrainSpec, data: TrainingData) -> Iterator[tuple[str, str]]:
    rows = data.train_rows
    if rows and spec.tokens > MANY_EPOCHS * rows:
        yield (
            "EPOCHS",
            f"{rows:,} training rows are read {spec.tokens / rows:.4g} times for {spec.tokens:,} "
            "tokens: the SAE may fit these rows alone. Store more rows, or lower tokens",
        )
    if rows and spec.batch_size > rows:
        yield (
            "BATCH_EXCEEDS_ROWS",
            f"batch_size = {spec.batch_size} exceeds the {rows:,} training rows, which each batch "
            "repeats: lower batch_size",
        )


def _of_heldout(spec: TrainSpec, data: TrainingData) -> Iterator[tuple[str, str]]:
    if data.heldout_rows and spec.eval_rows:
        return
    why = "eval_rows is 0" if data.heldout_rows else "the data set holds no rows out"
    yield (
        "NOTHING_HELD_OUT",
        f"{why}, so the model is published without FVU and L0, and is judged on training rows: "
        + ("raise eval_rows" if data.heldout_rows else "make the data set with heldout_fraction"),
    )


def _of_penalty(spec: TrainSpec, data: TrainingData) -> Iterator[tuple[str, str]]:
    chosen, norm = spec.architecture, _mean_norm(spec, data.d)
    if not isinstance(chosen, PenaltySpec) or spec.target_l0 is not None or norm is None:
        return
    most = chosen.strongest(norm)
    if chosen.sparsity_coefficient > most:
        yield (
            "PENALTY_TOO_STRONG",
            f"{chosen.name}.sparsity_coefficient = {chosen.sparsity_coefficient:g} is too strong "
            f"for rows of mean norm {norm:.4g}; above {most:.3g} few latents stay active: set "
            "target_l0 in its place, or lower it",
        )


def _mean_norm(spec: TrainSpec, d_in: int) -> float | None:
    """E|x| of the rows as the SAE sees them; None where they are not scaled."""
    if not spec.preprocess.scale:
        return None
    return spec.preprocess.mean_norm or math.sqrt(d_in)
