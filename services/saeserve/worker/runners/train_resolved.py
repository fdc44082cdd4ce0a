"""Keeps what a worker resolves of a train job that was submitted before its data set was READY."""

from __future__ import annotations

from saeserve.core.formats.train_sources import Layout
from saeserve.core.specs.field_sources import sources_of_training
from saeserve.core.specs.jobs import JobSpec
from saeserve.core.specs.training import TrainSpec
from saeserve.jobs.record import FieldSource, Resolution
from saeserve.worker.runners.base import RunContext


def keep_resolution(context: RunContext, spec: TrainSpec, layout: Layout) -> None:
    """Commit the resolved `spec` and where its values come from, so that GetJob shows them.

    Of several attempts the first one's stands: they resolve alike. Raises Fenced.
    """
    submission = context.submission
    if not submission.unresolved:
        return
    sources = sources_of_training(submission.spec["train"], layout.members(spec))
    resolution = Resolution(
        resolved_spec=JobSpec(train=spec).to_json(),
        field_sources=tuple(FieldSource(**each.model_dump()) for each in sources),
    )
    context.check_fence()
    context.ledger.resolve(submission.id, resolution)
