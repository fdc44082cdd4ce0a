"""Checks of the jobs that exchange models with other libraries; their files are read by the job."""

from __future__ import annotations

from saeserve.control.handlers.inputs import Inputs, Upstream
from saeserve.core.planning.plan import Plan
from saeserve.core.planning.tensors import BASE_BYTES
from saeserve.core.specs.interchange import ExportModelSpec, ImportModelSpec
from saeserve.core.specs.unfolding import IMPORT_BYTES_A_VALUE, declared_values
from saeserve.errors import FailedPrecondition, FormatError, InvalidInput
from saeserve.platform.store_errors import bad_path
from saeserve.registry.references import parse_reference
from saeserve.registry.upload_paths import is_upload
from saeserve.registry.version import ModelVersion

_IMPORT, _EXPORT = "spec.import_model", "spec.export_model"
_FLOAT = 4


def check_import(spec: ImportModelSpec, inputs: Inputs) -> Plan:
    """The plan. Raises InvalidInput and NotFound for paths that cannot be, FailedPrecondition for
    an upload that is not complete.

    Roots that are not mounted on this machine are left to the worker.
    """
    size, values = _declared(spec.path, inputs, f"{_IMPORT}.path")
    reference = spec.reference
    compared = 0
    for name in ("activations", "features", "reconstruction") if reference else ():
        path: str | None = getattr(reference, name)
        if path is not None:
            compared += _declared(path, inputs, f"{_IMPORT}.reference.{name}")[1]
    memory = BASE_BYTES + IMPORT_BYTES_A_VALUE * (values + compared)
    return Plan(disk_bytes=max(size, _FLOAT * values), memory_bytes=memory)


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


def _declared(path: str, inputs: Inputs, field: str) -> tuple[int, int]:
    """Bytes of a file or of the files directly in a folder, and the numbers that they declare;
    zeros where the root is not mounted."""
    if is_upload(path):
        inputs.uploads.check_complete(path, field)
        found = inputs.uploads.resolve(path, field)
    else:
        inputs.roots.check(path, field)
        if not inputs.roots.present(path):
            return 0, 0
        found = inputs.roots.resolve(path, field)
    try:
        files = [f for f in (found.iterdir() if found.is_dir() else [found]) if f.is_file()]
        return sum(f.stat().st_size for f in files), sum(map(declared_values, files))
    except FormatError as error:
        raise InvalidInput(
            error.message, code=error.code, field=field, remedy=error.remedy
        ) from error
    except OSError as error:
        raise bad_path(
            f"{path[:200]!r} cannot be read: {error.strerror}",
            remedy="let the services' user read it",
            field=field,
        ) from error


def _check_sources(version: ModelVersion, spec: ExportModelSpec) -> None:
    """The property that no format holds, known before the job runs; the rest the exporter says."""
    try:
        version.config.check_single_source(spec.format, version.resource)
    except FormatError as error:
        raise FailedPrecondition(
            error.message, code=FormatError.code, field=f"{_EXPORT}.format", remedy=error.remedy
        ) from error
