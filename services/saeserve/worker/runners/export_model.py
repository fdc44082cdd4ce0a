"""Runs an export_model job: a published version as another library's files, in the store."""

from __future__ import annotations

from pathlib import Path

from saeserve.core.errors import DataError
from saeserve.core.export.format import load_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.peers.registry import export_model
from saeserve.core.specs.interchange import ExportModelSpec
from saeserve.jobs.record import Output
from saeserve.registry.verifying import verified
from saeserve.worker.runners.base import Completed, RunContext
from saeserve.worker.runners.devices import settle_torch


def run(context: RunContext) -> Completed:
    """Write exports/<name>/<n>/<format>, unless it is there: a version never changes."""
    wanted = context.submission.resolved_spec["export_model"]
    spec = ExportModelSpec.parse(wanted, "export_model")
    settle_torch(context.order.torch_threads)
    version = context.models.resolve(spec.model)
    key = f"exports/{version.name}/{version.version}/{spec.format}"
    if not context.store.exists(key):
        context.check_fence()
        _write(load_model(verified(version.folder)), spec, context.store.path(key))
    context.report.log(f"{version.resource} is exported to {key} in the store")
    return Completed(outputs=(Output(exported=key),))


def _write(model: InferenceModel, spec: ExportModelSpec, folder: Path) -> None:
    """Another job may export the same meanwhile; whoever comes second has nothing to add."""
    try:
        export_model(model, spec.format, folder)
    except DataError:
        if not folder.exists():
            raise
