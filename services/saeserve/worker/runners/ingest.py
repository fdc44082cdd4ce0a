"""Runs an ingest job: from uploaded or registered files to a READY data set."""

from __future__ import annotations

from saeserve.core.data.ingest import IngestFinished, IngestProgress, IngestStopped, ingest
from saeserve.core.specs.jobs import IngestSpec
from saeserve.worker.report import Scale
from saeserve.worker.runners.base import Completed, JobStopped, RunContext
from saeserve.worker.runners.datasets import begin_dataset, commit_dataset
from saeserve.worker.runners.devices import settle_torch


def run(context: RunContext) -> Completed:
    """Verify every row and adopt it; an attempt goes on after the last whole shard."""
    spec = IngestSpec.parse(context.submission.resolved_spec["ingest"], "ingest")
    folder = begin_dataset(context, spec)
    if isinstance(folder, Completed):
        return folder
    settle_torch(context.order.torch_threads)
    files = context.datasets.paths(spec.dataset)
    for event in ingest(files, spec, folder, spec.dataset, context.stop):
        match event:
            case IngestProgress(done, total):
                context.report.metrics(done, {"rows": float(done)}, Scale("rows", total))
            case IngestFinished(manifest):
                return commit_dataset(context, spec, manifest)
            case IngestStopped():
                break
    raise JobStopped
