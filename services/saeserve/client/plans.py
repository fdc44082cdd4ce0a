"""A plan off the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saeserve.client.field_sources import FieldSource, field_sources
from saeserve.client.values import RunWarning, warning_values
from saeserve.v1 import job_pb2

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
    field_sources: tuple[FieldSource, ...] = ()
    """Where the values of fields come from that were not given, or were changed."""


def plan_value(plan: job_pb2.Plan) -> Plan:
    """The plan in a submit's answer."""
    memory: dict[str, int] = {part: getattr(plan.memory, f"{part}_bytes") for part in _PARTS}
    return Plan(
        parameters=plan.parameters,
        memory_bytes=plan.memory_bytes,
        disk_bytes=plan.disk_bytes,
        steps=plan.steps,
        notes=tuple(plan.notes),
        models=tuple(plan.models),
        memory=memory if plan.HasField("memory") else {},
        peaks={peak.moment: peak.bytes for peak in plan.memory.peaks},
        machine_memory_bytes=plan.machine_memory_bytes
        if plan.HasField("machine_memory_bytes")
        else None,
        tokens_per_second=plan.tokens_per_second if plan.HasField("tokens_per_second") else None,
        seconds=plan.seconds if plan.HasField("seconds") else None,
        refusal=_refusal(plan.refusal) if plan.HasField("refusal") else None,
        warnings=warning_values(plan.warnings),
        field_sources=field_sources(plan.field_sources),
    )


def _refusal(refusal: job_pb2.Refusal) -> Refusal:
    return Refusal(
        code=refusal.code,
        message=refusal.message,
        remedy=refusal.remedy,
        largest_batch_size=refusal.largest_batch_size or None,
        largest_micro_batch_size=refusal.largest_micro_batch_size or None,
        largest_d_sae=refusal.largest_d_sae or None,
    )
