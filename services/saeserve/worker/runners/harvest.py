"""Runs a harvest job: from a language model and text to a READY data set."""

from __future__ import annotations

from saeserve.core.specs.field_sources import sources_of_harvest
from saeserve.core.specs.jobs import HarvestSpec, JobSpec
from saeserve.harvest.events import (
    HarvestFinished,
    HarvestProgress,
    HarvestResolved,
    HarvestStopped,
)
from saeserve.harvest.run import run_harvest
from saeserve.worker.report import Scale
from saeserve.worker.runners.base import Completed, JobStopped, RunContext
from saeserve.worker.runners.datasets import begin_dataset, commit_dataset
from saeserve.worker.runners.devices import device_of, settle_torch
from saeserve.worker.runners.resolved import commit_resolution


def run(context: RunContext) -> Completed:
    """Harvest into the attempt's folder; an attempt goes on after the last whole shard."""
    wanted = HarvestSpec.parse(context.submission.resolved_spec["harvest"], "harvest")
    context.datasets.create(wanted.dataset, context.submission.id)
    folder = begin_dataset(context, wanted)
    if isinstance(folder, Completed):
        return folder
    settle_torch(context.order.torch_threads)
    device = device_of(context.submission.resource_class)
    spec = wanted.model_copy(update={"device": device.type})
    for event in run_harvest(spec, context.roots.resolve, folder, context.stop):
        match event:
            case HarvestResolved(length):
                _keep_context(context, wanted.with_context(length))
            case HarvestProgress(done, total, rate):
                values = {"rows": float(done), "tokens_per_second": rate}
                context.report.metrics(done, values, Scale("rows", total))
            case HarvestFinished(manifest):
                return commit_dataset(context, wanted, manifest)
            case HarvestStopped():
                break
    raise JobStopped


def _keep_context(context: RunContext, spec: HarvestSpec) -> None:
    """Say what `spec` has as its context_length, and keep it for GetJob. Raises Fenced."""
    sources = sources_of_harvest(context.submission.spec["harvest"], spec)
    (found,) = (each for each in sources if each.field == "context_length")
    why = f": {found.reason}" if found.reason else " by default"
    context.report.log(f"context_length is {spec.context_length}{why}")
    commit_resolution(context, JobSpec(harvest=spec), sources)
