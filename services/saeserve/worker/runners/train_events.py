"""Training events as job events."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.core.planning.before_run import warnings_of_job
from saeserve.core.planning.sizes import TrainingData
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.events import (
    CheckpointCommitted,
    Diverged,
    Finished,
    MetricsReported,
    Stopped,
    TrainingEvent,
    Warned,
)
from saeserve.jobs.payloads import MEMBER_DIVERGED
from saeserve.worker.report import MemberOf, Report, Scale
from saeserve.worker.runners.base import RunContext


def warn_before(context: RunContext, members: Sequence[TrainSpec], data: TrainingData) -> None:
    """Report what looks wrong about resolved runs before their first step."""
    numbers = {spec.model: number for number, spec in enumerate(members)}
    for each in warnings_of_job(members, data):
        member = MemberOf(each.member, numbers[each.member]) if each.member else None
        context.report.warning(0, each.code, each.message, member)


def tell(
    report: Report, event: TrainingEvent | Diverged, steps: int, member: MemberOf | None = None
) -> None:
    """Report an event of a run of `steps` steps, or of one `member` of a sweep."""
    match event:
        case MetricsReported(step, tokens, values):
            report.metrics(step, {**values, "tokens": tokens}, Scale("steps", steps), member)
        case CheckpointCommitted(step, size_bytes):
            report.checkpoint(step, size_bytes)
        case Warned(step, code, message):
            report.warning(step, code, message, member)
        case Diverged(step, code, message):
            report.warning(step, MEMBER_DIVERGED, f"{code}: {message}", member)
        case Stopped(step):
            report.log(f"stopped at step {step}")
        case Finished(step):
            report.log(f"trained {step} steps")
