"""Checks of the jobs that exchange models with other libraries; their files are read by the job."""

from __future__ import annotations

from saeserve.control.handlers.inputs import Inputs, Upstream
from saeserve.core.specs.interchange import ExportModelSpec, ImportModelSpec
from saeserve.core.specs.memory import Plan
from saeserve.platform.errors import FailedPrecondition
from saeserve.registry.references import parse_reference
from saeserve.registry.upload_paths import is_upload
from saeserve.registry.version import ModelVersion

_IMPORT, _EXPORT = "spec.import_model", "spec.export_model"


def check_import(spec: ImportModelSpec, inputs: Inputs) -> Plan:
    """The plan. Raises InvalidInput and NotFound for paths that cannot be, FailedPrecondition for
    an upload that is not complete.

    Roots that are not mounted on this machine are left to the worker.
    """
    size = _size(spec.path, inputs, f"{_IMPORT}.path")
    reference = spec.reference
    for name in ("activations", "features", "reconstruction") if reference else ():
        path: str | None = getattr(reference, name)
        if path is not None:
            _size(path, inputs, f"{_IMPORT}.reference.{name}")
    return Plan(disk_bytes=size, memory_bytes=2 * size)


def check_export(
    spec: ExportModelSpec, inputs: Inputs, upstream: Upstream
) -> tuple[ExportModelSpec, Plan]:
    """The resolved spec, its model pinned to one version where it is there already."""
    wanted = parse_reference(spec.model, f"{_EXPORT}.model")
    newest = not wanted.version and not wanted.alias
    if newest and upstream.makes_model(wanted.name):
        return spec, Plan(notes=("the model is published by a job that this one waits for",))
    version = inputs.models.resolve(spec.model, f"{_EXPORT}.model")
    _check_sources(version, spec)
    plan = Plan(disk_bytes=version.size_bytes, memory_bytes=2 * version.size_bytes)
    return spec.model_copy(update={"model": version.resource}), plan


def _size(path: str, inputs: Inputs, field: str) -> int:
    """Bytes of a file or of the files directly in a folder; 0 where the root is not mounted."""
    if is_upload(path):
        return inputs.uploads.check_complete(path, field)
    inputs.roots.check(path, field)
    if not inputs.roots.present(path):
        return 0
    found = inputs.roots.resolve(path, field)
    files = found.iterdir() if found.is_dir() else [found]
    return sum(file.stat().st_size for file in files if file.is_file())


def _check_sources(version: ModelVersion, spec: ExportModelSpec) -> None:
    """The property that no format holds, known before the job runs; the rest the exporter says."""
    if len(version.config.inputs) > 1:
        raise FailedPrecondition(
            f"{version.resource} reads {len(version.config.inputs)} sources; the {spec.format} "
            "format holds models of one",
            reason="BAD_FORMAT",
            field=f"{_EXPORT}.format",
            remedy="use the model through saeserve",
        )
