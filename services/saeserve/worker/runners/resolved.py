"""Keeps what a worker resolves of a job that control could not resolve when it was submitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from saeserve.core.specs import field_sources
from saeserve.core.specs.jobs import JobSpec
from saeserve.jobs.record import FieldSource, Resolution
from saeserve.worker.runners.base import RunContext


def commit_resolution(
    context: RunContext, spec: JobSpec, sources: Sequence[field_sources.FieldSource]
) -> None:
    """Commit the resolved `spec` and where its values come from, so that GetJob shows them.

    Of several attempts the first one's stands: they resolve alike. Raises Fenced.
    """
    resolution = Resolution(
        resolved_spec=spec.to_json(),
        field_sources=tuple(FieldSource(**asdict(each)) for each in sources),
    )
    context.check_fence()
    context.ledger.resolve(context.submission.id, resolution)
