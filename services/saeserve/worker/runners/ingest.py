"""Runs an ingest job: from uploaded or registered files to a READY data set."""

from __future__ import annotations

from saeserve.core.data.ingest import IngestFinished, IngestProgress, IngestStopped, ingest
from saeserve.core.specs.jobs import IngestSpec
from saeserve.worker.report import Scale
from saeserve.worker.runners.base import Completed, JobStopped, RunContext
from saeserve.worker.runners.datasets import commit_dataset, committed_before
from saeserve.worker.runners.devices import settle_torch


def run(context: RunContext) -> Completed:
    """Verify every row and adopt it; an attempt goes on after the last whole shard."""
    spec = IngestSpec.parse(context.submission.resolved_spec["ingest"], "ingest")
    if (before := committed_before(context, spec.dataset)) is not None:
        return before
    settle_torch(context.order.torch_threads)
    files = context.datasets.paths(spec.dataset)
    folder = context.datasets.get(spec.dataset).folder
    for event in ingest(files, spec, folder, spec.dataset, context.stop):
        match event:
            case IngestProgress(done, total):
                context.report.metrics(done, {"rows": float(done)}, Scale("rows", total))
            case IngestFinished(manifest):
                return commit_dataset(context, manifest)
            case IngestStopped():
                break
    raise JobStopped
