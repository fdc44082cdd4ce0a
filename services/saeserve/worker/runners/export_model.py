"""Runs an export_model job: a published version as another library's files, in the store."""

from __future__ import annotations

from saeserve.core.export.format import load_model
from saeserve.core.peers.registry import export_model
from saeserve.core.specs.interchange import ExportModelSpec
from saeserve.jobs.record import Output
from saeserve.registry.publication import staged_export
from saeserve.registry.verifying import verified
from saeserve.worker.runners.base import Completed, RunContext, Stages
from saeserve.worker.runners.cards import write_card
from saeserve.worker.runners.devices import settle_torch


def run(context: RunContext) -> Completed:
    """Make exports/<name>/<n>/<format>, unless it is there: a version never changes. It appears
    there once the job's result names it."""
    wanted = context.submission.resolved_spec["export_model"]
    spec = ExportModelSpec.parse(wanted, "export_model")
    settle_torch(context.order.torch_threads)
    version = context.models.resolve(spec.model)
    key = f"exports/{version.name}/{version.version}/{spec.format}"
    stages = Stages(context, 3)
    if not context.store.exists(key):
        staged = staged_export(context.attempt_key)
        context.store.remove(staged)
        folder = verified(version.folder)
        stages.done("verified")
        model = load_model(folder)
        stages.done("read")
        export_model(model, spec.format, context.store.path(staged))
        write_card(context, context.store.path(staged), version.name, version.config, spec.format)
        stages.done("written")
    context.report.log(f"{version.resource} is exported for {key} in the store")
    return Completed(outputs=(Output(exported=key),))
