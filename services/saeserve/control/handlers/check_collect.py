"""Checks of the jobs that collect what features fire on."""

from __future__ import annotations

from saeserve.control.handlers.inputs import Inputs, Upstream, source_of
from saeserve.core.features.sizes import bundle_bytes, collect_bytes
from saeserve.core.formats.evaluation_sources import check_widths, judged_sources
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.planning.plan import Plan
from saeserve.core.specs.jobs import CollectSpec
from saeserve.errors import DataMismatchError, FailedPrecondition, InvalidInput, SpecError
from saeserve.platform.status import refused_spec
from saeserve.registry.references import parse_reference
from saeserve.registry.version import ModelVersion

_FIELD = "spec.collect"
_NO_LABELS = (
    "the data set holds no rows out, so features will have no labels: a label is scored on rows "
    "that had no part in it"
)
_ENTRIES = 64
"""Codes a row that the plan counts with, where the model has no k."""


def check_collect(
    spec: CollectSpec, inputs: Inputs, upstream: Upstream
) -> tuple[CollectSpec, Plan]:
    """The resolved spec, its model pinned to one version where it is there already."""
    manifest = inputs.manifest(spec.dataset, upstream, f"{_FIELD}.dataset")
    version = _version(spec, inputs, upstream)
    if manifest is not None:
        _check_tokens(spec, manifest)
    if version is None:
        return spec, Plan(notes=("the model is published by a job that this one waits for",))
    resolved = spec.model_copy(update={"model": version.resource})
    if manifest is None:
        return resolved, Plan(parameters=version.size_bytes // 4)
    return _with_source(resolved, manifest, version), _plan(spec, manifest, version)


def _version(spec: CollectSpec, inputs: Inputs, upstream: Upstream) -> ModelVersion | None:
    """The version to collect from; None when it is the newest and a job waited for makes that."""
    wanted = parse_reference(spec.model, f"{_FIELD}.model")
    if not wanted.version and not wanted.alias and upstream.makes_model(wanted.name):
        return None
    return inputs.models.resolve(spec.model, f"{_FIELD}.model")


def _check_tokens(spec: CollectSpec, manifest: DatasetManifest) -> None:
    if manifest.tokenization is None or manifest.language_model is None:
        raise FailedPrecondition(
            f"data set {spec.dataset} was not harvested from text, so its rows have no tokens",
            code="NO_TOKENS",
            field=f"{_FIELD}.dataset",
            remedy="collect on a data set that a harvest made",
        )


def _with_source(
    spec: CollectSpec, manifest: DatasetManifest, version: ModelVersion
) -> CollectSpec:
    """The spec with its source named where the model reads one."""
    config = version.config
    try:
        sources = judged_sources(
            config,
            spec.source,
            manifest,
            lambda name, field: source_of(manifest, name, f"spec.{field}"),
        )
        check_widths(version.resource, config, sources, spec.dataset)
    except SpecError as error:
        raise refused_spec(error.under("spec")) from None
    except DataMismatchError as error:
        raise InvalidInput(
            error.message, code=error.code, field=f"{_FIELD}.source", remedy=error.remedy
        ) from None
    if len(config.inputs) > 1:
        return spec
    return spec.model_copy(update={"source": sources[0].name})


def _plan(spec: CollectSpec, manifest: DatasetManifest, version: ModelVersion) -> Plan:
    config = version.config
    rows = min(spec.max_tokens or manifest.rows, manifest.rows)
    entries = config.selecting.k if config.selecting else _ENTRIES
    sizes = config.d_sae, rows, entries, version.size_bytes
    unlabelled = spec.label_tokens and not manifest.heldout_rows
    return Plan(
        parameters=version.size_bytes // 4,
        memory_bytes=collect_bytes(*sizes, labels=bool(spec.label_tokens)),
        notes=(_NO_LABELS,) if unlabelled else (),
        disk_bytes=bundle_bytes(config.d_sae, rows),
    )
