"""Runs an import_model job: from files of another library or deployment to a published version."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path, PurePath, PurePosixPath

from torch import Tensor

from saeserve.core.export.format import save_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.peers.arrays import read_npy
from saeserve.core.peers.files import ForeignFiles
from saeserve.core.peers.foreign import Imported
from saeserve.core.peers.reference import Reference, check
from saeserve.core.peers.registry import import_model
from saeserve.core.specs.interchange import ImportModelSpec, ReferenceSpec
from saeserve.errors import InvalidInput, NotFound
from saeserve.jobs.record import JobWarning, Output
from saeserve.registry.model_uploads import ModelUploads
from saeserve.registry.upload_paths import is_upload
from saeserve.worker.runners.admission import check_import_memory
from saeserve.worker.runners.base import Completed, RunContext, Stages
from saeserve.worker.runners.cards import write_card
from saeserve.worker.runners.devices import settle_torch
from saeserve.worker.runners.scratch import scratch_folder


def run(context: RunContext) -> Completed:
    """Read, compare with the reference if there is one, publish. Nothing foreign is executed."""
    wanted = context.submission.resolved_spec["import_model"]
    spec = ImportModelSpec.parse(wanted, "import_model")
    stages = Stages(context, 4)
    settle_torch(context.order.torch_threads)
    imported = import_model(_files(context, spec.path), spec.format, spec.source, spec.target)
    warnings = _told(context, imported)
    stages.done("read")
    metrics = _compared(context, imported, spec.reference)
    stages.done("compared")
    with scratch_folder(context) as folder:
        model = _with_lineage(context, imported.model, spec, metrics)
        save_model(model, folder)
        write_card(context, folder, spec.model, model.config)
        stages.done("written")
        context.check_fence()
        resource = context.models.publish(spec.model, context.submission.id, 0, folder)
    stages.done("published")
    context.report.log(f"published {resource}")
    return Completed(outputs=(Output(model=resource, metrics=metrics, warnings=warnings),))


def _files(context: RunContext, path: str) -> ForeignFiles:
    """Each file is looked up by itself, so that no link leads out of its root."""

    def resolve(name: str) -> Path:
        return _found(context, f"{path}/{name}" if name else path, "path")

    def above(levels: int, name: str) -> Path | None:
        return _beside(context, path, levels, name)

    return ForeignFiles(resolve, check_import_memory, _place(context, path), above)


def _place(context: RunContext, path: str) -> PurePath:
    """Where the files lie, links not followed: in the Hub's cache every file is one."""
    if is_upload(path):
        return PurePosixPath(path)
    return context.roots.folder(path) / context.roots.check(path)[1]


def _beside(context: RunContext, path: str, levels: int, name: str) -> Path | None:
    """A file so many folders above what `path` names, which need not be there; never above the
    root or the upload."""
    root, colon, below = path.rpartition(":")
    parents = PurePosixPath(below).parents
    if levels > len(parents):
        return None
    try:
        found = _found(context, f"{root}{colon}{parents[levels - 1] / name}", "path")
    except (InvalidInput, NotFound):
        return None
    return found if found.is_file() else None


def _found(context: RunContext, path: str, field: str) -> Path:
    """A file or folder below a root, or in an upload."""
    if is_upload(path):
        return ModelUploads(context.store).resolve(path, field)
    return context.roots.resolve(path, field)


def _told(context: RunContext, imported: Imported) -> tuple[JobWarning, ...]:
    """What the files leave open, and which reading was taken: an event, and part of the result."""
    found = imported.model.config.lineage.warnings
    for warning in found:
        context.report.warning(0, warning.code, warning.message)
    return tuple(JobWarning(code=each.code, message=each.message) for each in found)


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
            "metrics": {**known.metrics, **metrics},
        }
    )
    config = model.config.model_copy(update={"lineage": lineage})
    return dataclasses.replace(model, config=config)
