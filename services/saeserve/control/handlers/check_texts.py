"""Checks of the jobs that run a language model on given texts: generate and annotate."""

from __future__ import annotations

from typing import TypeVar

from saeserve.control.handlers.check_model import no_language_model, version_of
from saeserve.control.handlers.inputs import Inputs, Upstream, source_of
from saeserve.core.formats.evaluation_sources import check_widths, judged_sources
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.planning.plan import Plan
from saeserve.core.specs.steering import check_features
from saeserve.core.specs.text_jobs import AnnotateSpec, GenerateSpec
from saeserve.errors import DataMismatchError, InvalidInput, SpecError
from saeserve.platform.status import refused_spec
from saeserve.registry.version import ModelVersion

S = TypeVar("S", GenerateSpec, AnnotateSpec)


def check_texts(spec: S, kind: str, inputs: Inputs, upstream: Upstream) -> tuple[S, Plan]:
    """The resolved spec of a job of `kind`, its model pinned to one version where it is there."""
    field = f"spec.{kind}"
    manifest = inputs.manifest(spec.dataset, upstream, f"{field}.dataset")
    version = version_of(spec.model, f"{field}.model", inputs, upstream)
    if manifest is not None:
        _check_language_model(manifest, field)
    if version is None:
        return spec, Plan(notes=("the model is published by a job that this one waits for",))
    if isinstance(spec, GenerateSpec):
        _check_steerable(spec, version)
    if manifest is not None:
        spec = _with_source(spec, kind, manifest, version)
    return spec.model_copy(update={"model": version.resource}), Plan(
        parameters=version.size_bytes // 4, memory_bytes=version.size_bytes
    )


def _check_language_model(manifest: DatasetManifest, field: str) -> None:
    if manifest.language_model is None or manifest.tokenization is None:
        raise no_language_model(
            f"data set {manifest.name} names no language model to run",
            f"{field}.dataset",
            "name a harvested data set",
        )


def _check_steerable(spec: GenerateSpec, version: ModelVersion) -> None:
    config = version.config
    if len(config.inputs) > 1 or len(config.outputs) > 1:
        raise InvalidInput(
            f"{version.resource} reads or writes several sites, of which the first is written "
            "before the last is known",
            code="SEVERAL_SITES",
            field="spec.generate.model",
            remedy="name a model of one site, or steer rows that you have with InferenceService",
        )
    try:
        check_features(spec.edits, config.d_sae, "spec.generate.edits")
    except SpecError as error:
        raise refused_spec(error) from None


def _with_source(spec: S, kind: str, manifest: DatasetManifest, version: ModelVersion) -> S:
    """With its source, where the model reads one. Raises InvalidInput for sources of the data set
    that are not those of the model."""
    config, field = version.config, f"{kind}.source"
    try:
        sources = judged_sources(
            config,
            spec.source,
            manifest,
            lambda name, where: source_of(manifest, name, f"spec.{where}"),
            field,
        )
        check_widths(version.resource, config, sources, manifest.name)
    except SpecError as error:
        raise refused_spec(error.under("spec")) from None
    except DataMismatchError as error:
        raise InvalidInput(
            error.message, code=error.code, field=f"spec.{field}", remedy=error.remedy
        ) from error
    only = len(config.inputs) == 1
    return spec.model_copy(update={"source": sources[0].name}) if only else spec
