"""Runs an import_model job: from another library's files to a published model version."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from saeserve.core.export.format import save_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.peers.arrays import read_npy
from saeserve.core.export.peers.files import ForeignFiles
from saeserve.core.export.peers.foreign import Imported
from saeserve.core.export.peers.reference import Reference, check
from saeserve.core.export.peers.registry import import_model
from saeserve.core.specs.interchange import ImportModelSpec, ReferenceSpec
from saeserve.jobs.record import Output
from saeserve.registry.model_uploads import ModelUploads
from saeserve.registry.upload_paths import is_upload
from saeserve.worker.runners.admission import check_import_memory
from saeserve.worker.runners.base import Completed, RunContext
from saeserve.worker.runners.devices import settle_torch
from saeserve.worker.runners.scratch import scratch_folder


def run(context: RunContext) -> Completed:
    """Read, compare with the reference if there is one, publish. Nothing foreign is executed."""
    wanted = context.submission.resolved_spec["import_model"]
    spec = ImportModelSpec.parse(wanted, "import_model")
    settle_torch(context.order.torch_threads)
    imported = import_model(_files(context, spec.path), spec.format, spec.source)
    context.check_stop()
    metrics = _compared(context, imported, spec.reference)
    context.check_stop()
    with scratch_folder(context) as folder:
        save_model(_with_lineage(context, imported.model, spec, metrics), folder)
        context.check_fence()
        resource = context.models.publish(spec.model, context.submission.id, 0, folder)
    context.report.log(f"published {resource}")
    return Completed(outputs=(Output(model=resource, metrics=metrics),))


def _files(context: RunContext, path: str) -> ForeignFiles:
    """Each file is looked up by itself, so that no link leads out of its root."""

    def resolve(name: str) -> Path:
        return _found(context, f"{path}/{name}" if name else path, "path")

    return ForeignFiles(resolve, check_import_memory)


def _found(context: RunContext, path: str, field: str) -> Path:
    """A file or folder below a root, or in an upload."""
    if is_upload(path):
        return ModelUploads(context.store).resolve(path, field)
    return context.roots.resolve(path, field)


def _compared(
    context: RunContext, imported: Imported, spec: ReferenceSpec | None
) -> dict[str, float]:
    if spec is None:
        return {}
    context.report.log("comparing with the reference")

    def matrix(path: str | None) -> Tensor | None:
        return None if path is None else read_npy(_found(context, path, "reference"))

    reference = Reference(
        activations=read_npy(_found(context, spec.activations, "reference")),
        features=matrix(spec.features),
        reconstruction=matrix(spec.reconstruction),
        tolerance=spec.tolerance,
    )
    return check(imported, reference)


def _with_lineage(
    context: RunContext, model: InferenceModel, spec: ImportModelSpec, metrics: dict[str, float]
) -> InferenceModel:
    known = model.config.lineage
    lineage = known.model_copy(
        update={
            "spec": {"import_model": spec.to_json(), **known.spec},
            "job": context.submission.id,
            "code_version": version("saeserve"),
            "metrics": metrics,
        }
    )
    config = model.config.model_copy(update={"lineage": lineage})
    return dataclasses.replace(model, config=config)
