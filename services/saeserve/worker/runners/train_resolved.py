"""Keeps what a worker resolves of a train job that was submitted before its data set was READY."""

from __future__ import annotations

from saeserve.core.formats.train_sources import Layout
from saeserve.core.specs.field_sources import sources_of_training
from saeserve.core.specs.jobs import JobSpec
from saeserve.core.specs.training import TrainSpec
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.resolved import commit_resolution


def keep_resolution(context: RunContext, spec: TrainSpec, layout: Layout) -> None:
    """Keep the resolved `spec` and where its values come from. Raises Fenced."""
    submission = context.submission
    if submission.unresolved:
        sources = sources_of_training(submission.spec["train"], layout.members(spec))
        commit_resolution(context, JobSpec(train=spec), sources)
