"""What a job would take: parameters, bytes of memory and disk, steps, and how long.

Plain arithmetic for admission and for people: `tensors` counts the tensors, `speed` scales what
finished jobs took, `refusal` says what would fit.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from saeserve.core.planning.before_run import warnings_of_job
from saeserve.core.planning.fit import Needs, fit_notes, largest_of, refused_by
from saeserve.core.planning.footprint import STEP, Footprint, Memory, Part
from saeserve.core.planning.machine import Fleet, Machine
from saeserve.core.planning.refusal import Refusal
from saeserve.core.planning.sizes import TrainingData, parameters_of
from saeserve.core.planning.speed import nearest, training_seconds
from saeserve.core.planning.tensors import footprint_of
from saeserve.core.specs.base import Spec
from saeserve.core.specs.cadence import CHECKPOINT_S, REPORT_S
from saeserve.core.specs.field_sources import FieldSource
from saeserve.core.specs.run_warning import JobWarning
from saeserve.core.specs.training import TrainSpec

_FLOAT = 4
_CHECKPOINT_BYTES = 3 * _FLOAT
"""Bytes a parameter in a checkpoint: weight and two moments."""
_CHECKPOINTS_AT_ONCE = 3
"""Two are kept while the next one is written."""
_EXPORTS_AT_ONCE = 2
"""The export's scratch folder and the published version."""


class MemoryPeak(Spec):
    """The most that is held in one stretch of a job."""

    moment: str
    bytes: int = Field(ge=0)


class MemoryPlan(Spec):
    """Bytes by what holds them. Not all are held at once, so the job's peak may be less than
    their sum; `peaks` has it for each stretch of the job."""

    parameter_bytes: int = Field(default=0, ge=0)
    optimizer_bytes: int = Field(default=0, ge=0)
    gradient_bytes: int = Field(default=0, ge=0)
    step_bytes: int = Field(default=0, ge=0)
    """Activations and other temporaries of a step."""
    data_bytes: int = Field(default=0, ge=0)
    """Rows that are shuffled and read ahead."""
    base_bytes: int = Field(default=0, ge=0)
    """The process itself: interpreter, libraries, what the allocator keeps."""
    peaks: tuple[MemoryPeak, ...] = ()


class Plan(Spec):
    """What a job would take, and what is worth knowing before it runs. Sizes in bytes."""

    parameters: int = Field(default=0, ge=0)
    memory_bytes: int = Field(default=0, ge=0)
    """The job's peak; on an accelerator, of its memory."""
    disk_bytes: int = Field(default=0, ge=0)
    steps: int = Field(default=0, ge=0)
    notes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    """Names of the models that a train job publishes."""
    memory: MemoryPlan | None = None
    machine_memory_bytes: int | None = Field(default=None, ge=0)
    host_memory_bytes: int | None = Field(default=None, ge=0)
    """On an accelerator: the peak in the memory of its host."""
    host_memory: MemoryPlan | None = None
    machine_host_memory_bytes: int | None = Field(default=None, ge=0)
    tokens_per_second: float | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)
    """Duration of all steps, without reading data, checkpoints and the closing evaluation."""
    refusal: Refusal | None = None
    """Set where the job would be refused."""
    warnings: tuple[JobWarning, ...] = ()
    """What looks wrong and does not forbid the job."""
    field_sources: tuple[FieldSource, ...] = ()
    """Where the values of fields come from that were not given, or were changed."""


def plan_training(
    asked: TrainSpec,
    resolved: TrainSpec,
    data: TrainingData | None,
    fleet: Fleet | None = None,
    members: Sequence[TrainSpec] = (),
) -> Plan:
    """The plan of a train job; without `data` (its data set is not READY yet) only the steps.

    `fleet`: the workers that may run it, for whether it fits and how long it takes. `members`: a
    sweep's, resolved.
    """
    notes = _spec_notes(asked, resolved)
    warnings = warnings_of_job(members or resolved.members, data)
    if data is None:
        note = "memory and disk are known once the data set is READY, for they depend on its width"
        return Plan(steps=resolved.steps, notes=(note, *notes), warnings=warnings)
    plan = plan_members(members or (resolved,), data, fleet or Fleet())
    notes += [*_data_notes(resolved, data), *plan.notes]
    return plan.model_copy(update={"notes": tuple(notes), "warnings": warnings})


def plan_members(members: Sequence[TrainSpec], data: TrainingData, fleet: Fleet) -> Plan:
    """The plan of resolved runs that share one stream of rows and step in turn."""
    parameters = sum(parameters_of(spec, data) for spec in members)
    footprint = footprint_of(members, data, fleet.memory)
    host = footprint_of(members, data, Memory.HOST) if fleet.accelerated else None
    published = parameters * _FLOAT * _EXPORTS_AT_ONCE
    plan = Plan(
        parameters=parameters,
        memory_bytes=footprint.peak,
        disk_bytes=parameters * _CHECKPOINT_BYTES * _CHECKPOINTS_AT_ONCE + published,
        steps=max(spec.steps for spec in members),
        memory=_memory(footprint),
        host_memory_bytes=None if host is None else host.peak,
        host_memory=None if host is None else _memory(host),
    )
    needs = Needs(plan.memory_bytes, plan.host_memory_bytes or 0)
    return plan.model_copy(update=_on(fleet, members, data, needs))


def _memory(footprint: Footprint) -> MemoryPlan:
    return MemoryPlan(
        parameter_bytes=footprint.largest(Part.PARAMETERS),
        optimizer_bytes=footprint.largest(Part.OPTIMIZER),
        gradient_bytes=footprint.largest(Part.GRADIENTS),
        step_bytes=footprint.largest(Part.TEMPORARIES, STEP),
        data_bytes=footprint.largest(Part.DATA),
        base_bytes=footprint.largest(Part.BASE),
        peaks=tuple(MemoryPeak(moment=m, bytes=size) for m, size in footprint.peaks.items()),
    )


def _on(
    fleet: Fleet, members: Sequence[TrainSpec], data: TrainingData, needs: Needs
) -> dict[str, object]:
    """What the workers' machines make of it."""
    if not fleet.machines:
        note = (
            f"no worker of class {fleet.resource_class} has announced its machine, so neither fit "
            "nor speed is predicted"
        )
        return {"notes": (note,)}
    large = [machine for machine in fleet.machines if needs.fit(machine)]
    largest = largest_of(fleet, needs)
    predicted = [
        (seconds, machine)
        for machine in large or [largest]
        if (seconds := _seconds(members, data, machine, fleet)) is not None
    ]
    return {
        "machine_memory_bytes": largest.memory_bytes,
        "machine_host_memory_bytes": largest.host_memory_bytes or None,
        "refusal": refused_by(largest, fleet, members, data),
        **_speed(members, predicted),
        "notes": (
            *fit_notes(fleet, len(large), needs),
            *_cadence_notes(fleet),
            _speed_note(members[0], data, fleet, predicted),
        ),
    }


def _seconds(
    members: Sequence[TrainSpec], data: TrainingData, machine: Machine, fleet: Fleet
) -> float | None:
    return training_seconds(members, data, machine, accelerated=fleet.accelerated)


def _speed(
    members: Sequence[TrainSpec], predicted: Sequence[tuple[float, Machine]]
) -> dict[str, object]:
    """Duration and tokens per second on the slowest machine that the job may run on."""
    if not predicted:
        return {}
    seconds = max(seconds for seconds, _ in predicted)
    rows = sum(spec.steps * spec.batch_size for spec in members)
    return {"seconds": seconds, "tokens_per_second": rows / seconds}


def _cadence_notes(fleet: Fleet) -> list[str]:
    if not fleet.accelerated:
        return []
    return [
        f"on an accelerator reports are at least {REPORT_S:g} s apart and checkpoints "
        f"{CHECKPOINT_S:g} s, whatever log_every_steps and checkpoint_every_steps say"
    ]


def _speed_note(
    spec: TrainSpec,
    data: TrainingData,
    fleet: Fleet,
    predicted: Sequence[tuple[float, Machine]],
) -> str:
    """Where the predicted speed comes from, or why there is none."""
    name = spec.architecture.name
    if not predicted:
        kinds = " or ".join(sorted({machine.kind for machine in fleet.machines}))
        return (
            f"no {name} job has finished on {kinds} yet, so no speed is predicted; the first one's "
            "speed will be recorded"
        )
    _, slowest = max(predicted, key=lambda pair: pair[0])
    count = len(nearest(spec, data, slowest, accelerated=fleet.accelerated))
    jobs = f"{count} finished {name} job" + ("s" if count > 1 else "")
    return f"speed is scaled from {jobs} on {slowest.kind}"


def _spec_notes(asked: TrainSpec, resolved: TrainSpec) -> list[str]:
    notes: list[str] = []
    if resolved.dead_window_tokens < asked.dead_window_tokens:
        notes.append(
            f"dead_window_tokens is lowered from {asked.dead_window_tokens} to "
            f"{resolved.dead_window_tokens}, a tenth of the run"
        )
    left = asked.tokens % asked.batch_size
    if left:
        notes.append(f"the last {left} tokens make no whole batch and are not trained on")
    return notes


def _data_notes(spec: TrainSpec, data: TrainingData) -> list[str]:
    notes: list[str] = []
    if data.train_rows and spec.tokens > data.train_rows:
        epochs = spec.tokens / data.train_rows
        notes.append(f"{data.train_rows} training rows are gone through {epochs:.1f} times")
    if spec.eval_rows > data.heldout_rows > 0:
        notes.append(
            f"eval_rows is {spec.eval_rows} and {data.heldout_rows} rows are held out; "
            "the closing evaluation takes those"
        )
    if spec.d_sae < data.d:
        notes.append(f"d_sae = {spec.d_sae} is less than d_in = {data.d}: not overcomplete")
    return notes
