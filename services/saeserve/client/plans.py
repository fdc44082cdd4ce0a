"""A plan off the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from saeserve.client.field_sources import FieldSource, field_sources
from saeserve.client.values import RunWarning, warning_values
from saeserve.v1 import job_pb2

_Optional = Literal[
    "machine_memory_bytes",
    "host_memory_bytes",
    "machine_host_memory_bytes",
    "tokens_per_second",
    "seconds",
]
_PARTS = ("parameter", "optimizer", "gradient", "step", "data", "base")


@dataclass(frozen=True)
class Refusal:
    """Why a job would be refused, and the largest that would not be."""

    code: str
    message: str
    remedy: str
    largest_batch_size: int | None
    largest_micro_batch_size: int | None
    largest_d_sae: int | None


@dataclass(frozen=True)
class Plan:
    """What a job would take; sizes in bytes, None where it is not known.

    `memory` has the bytes by what holds them, `peaks` the most that each stretch of the job holds.
    """

    parameters: int
    memory_bytes: int
    disk_bytes: int
    steps: int
    notes: tuple[str, ...]
    models: tuple[str, ...]
    """Names of the models that a train job publishes, the members of a sweep in order."""
    memory: Mapping[str, int]
    peaks: Mapping[str, int]
    machine_memory_bytes: int | None
    tokens_per_second: float | None
    seconds: float | None
    refusal: Refusal | None
    warnings: tuple[RunWarning, ...] = ()
    """What looks wrong and does not forbid the job."""
    host_memory_bytes: int | None = None
    """On an accelerator: the peak in the memory of its host; `host_memory` and `host_peaks` are of
    that one."""
    host_memory: Mapping[str, int] = field(default_factory=dict[str, int])
    host_peaks: Mapping[str, int] = field(default_factory=dict[str, int])
    machine_host_memory_bytes: int | None = None
    field_sources: tuple[FieldSource, ...] = ()
    """Where the values of fields come from that were not given, or were changed."""


def plan_value(plan: job_pb2.Plan) -> Plan:
    """The plan in a submit's answer."""
    return Plan(
        parameters=plan.parameters,
        memory_bytes=plan.memory_bytes,
        disk_bytes=plan.disk_bytes,
        steps=plan.steps,
        notes=tuple(plan.notes),
        models=tuple(plan.models),
        memory=_parts(plan.memory) if plan.HasField("memory") else {},
        peaks=_peaks(plan.memory),
        machine_memory_bytes=_set(plan, "machine_memory_bytes"),
        host_memory_bytes=_set(plan, "host_memory_bytes"),
        host_memory=_parts(plan.host_memory) if plan.HasField("host_memory") else {},
        host_peaks=_peaks(plan.host_memory),
        machine_host_memory_bytes=_set(plan, "machine_host_memory_bytes"),
        tokens_per_second=_set(plan, "tokens_per_second"),
        seconds=_set(plan, "seconds"),
        refusal=_refusal(plan.refusal) if plan.HasField("refusal") else None,
        warnings=warning_values(plan.warnings),
        field_sources=field_sources(plan.field_sources),
    )


def _set(plan: job_pb2.Plan, name: _Optional) -> Any:  # noqa: ANN401 - int or float, as the field is
    return getattr(plan, name) if plan.HasField(name) else None


def _parts(memory: job_pb2.MemoryPlan) -> dict[str, int]:
    return {part: getattr(memory, f"{part}_bytes") for part in _PARTS}


def _peaks(memory: job_pb2.MemoryPlan) -> dict[str, int]:
    return {peak.moment: peak.bytes for peak in memory.peaks}


def _refusal(refusal: job_pb2.Refusal) -> Refusal:
    return Refusal(
        code=refusal.code,
        message=refusal.message,
        remedy=refusal.remedy,
        largest_batch_size=refusal.largest_batch_size or None,
        largest_micro_batch_size=refusal.largest_micro_batch_size or None,
        largest_d_sae=refusal.largest_d_sae or None,
    )
