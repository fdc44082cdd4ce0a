"""Checks of the jobs that make and judge models: train and evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saeserve.control.handlers.check_continuation import pinned
from saeserve.control.handlers.inputs import Inputs, Upstream, source_of
from saeserve.core.formats.evaluation_sources import check_widths, judged_sources
from saeserve.core.formats.manifest import DatasetManifest, SourceEntry
from saeserve.core.formats.train_sources import Layout, layout_of
from saeserve.core.planning.machine import Fleet
from saeserve.core.planning.plan import Plan, plan_training
from saeserve.core.planning.sizes import training_data
from saeserve.core.specs.field_sources import sources_of_training
from saeserve.core.specs.jobs import EvaluateSpec
from saeserve.core.specs.training import TrainSpec, settled
from saeserve.errors import DataMismatchError, FailedPrecondition, InvalidInput, SpecError
from saeserve.platform.status import refused_spec
from saeserve.registry.references import parse_reference
from saeserve.registry.version import ModelVersion

_FIELD = "spec.evaluate"


def check_train(
    given: Mapping[str, object], spec: TrainSpec, inputs: Inputs, upstream: Upstream, fleet: Fleet
) -> tuple[TrainSpec, Plan]:
    """The resolved spec and the plan of `spec`, which was `given` as plain fields; while the data
    set is PENDING, the worker resolves."""
    manifest = inputs.manifest(spec.dataset, upstream, "spec.train.dataset")
    if manifest is None:
        resolved = _pinned(settled(spec), None, inputs, upstream)
        members = resolved.members
        plan = plan_training(spec, resolved, None)
    else:
        layout = _layout(spec, manifest)
        resolved = _pinned(layout.resolve(spec), layout, inputs, upstream)
        members = layout.members(resolved)
        plan = _plan(spec, resolved, layout, manifest, fleet)
    sources = sources_of_training(given, members)
    facts = {"models": resolved.publishes, "field_sources": sources}
    return resolved, plan.model_copy(update=facts)


def _pinned(
    spec: TrainSpec, layout: Layout | None, inputs: Inputs, upstream: Upstream
) -> TrainSpec:
    """Pin the model as `pinned` does, after checking that each member can continue from it."""
    for member in spec.members if spec.sweep is not None else ():
        pinned(member, layout, inputs, upstream)
    return pinned(spec, layout, inputs, upstream)


def _plan(
    asked: TrainSpec, resolved: TrainSpec, layout: Layout, manifest: DatasetManifest, fleet: Fleet
) -> Plan:
    data = training_data(layout, manifest)
    if not data.train_rows:
        raise FailedPrecondition(
            f"all {manifest.rows} rows of data set {asked.dataset} are held out",
            code="NO_TRAINING_ROWS",
            field="spec.train.dataset",
            remedy="make the data set again with a lower heldout_fraction",
        )
    return plan_training(asked, resolved, data, fleet, layout.members(resolved))


def _layout(spec: TrainSpec, manifest: DatasetManifest) -> Layout:
    try:
        return layout_of(spec, manifest, lambda name, field: _find(manifest, name, field))
    except SpecError as error:
        raise _refused(error) from None


def _find(manifest: DatasetManifest, name: str | None, field: str) -> SourceEntry:
    return source_of(manifest, name, f"spec.{field}")


def _refused(error: SpecError) -> InvalidInput:
    return refused_spec(error.under("spec"))


def check_evaluate(
    spec: EvaluateSpec, inputs: Inputs, upstream: Upstream
) -> tuple[EvaluateSpec, Plan]:
    """The resolved spec, its models pinned to one version where they are there already."""
    manifest = inputs.manifest(spec.dataset, upstream, f"{_FIELD}.dataset")
    fields = ("model", *(f"models.{number}" for number in range(len(spec.models))))
    versions = [
        version_of(reference, f"{_FIELD}.{field}", inputs, upstream)
        for reference, field in zip(spec.references, fields, strict=True)
    ]
    if manifest is not None:
        _check_rows(spec, manifest)
        spec = _with_sources(spec, manifest, versions)
    pinned = [
        reference if version is None else version.resource
        for reference, version in zip(spec.references, versions, strict=True)
    ]
    spec = EvaluateSpec.parse(
        spec.to_json() | {"model": pinned[0], "models": pinned[1:]}, "evaluate"
    )
    return spec, _evaluation_plan(versions)


def _evaluation_plan(versions: Sequence[ModelVersion | None]) -> Plan:
    size = sum(version.size_bytes for version in versions if version is not None)
    waits = None in versions
    notes = ("the model is published by a job that this one waits for",) if waits else ()
    return Plan(parameters=size // 4, memory_bytes=size, notes=notes)


def version_of(
    reference: str, field: str, inputs: Inputs, upstream: Upstream
) -> ModelVersion | None:
    """The version that `field` names; None when it is the newest and a job waited for makes
    that."""
    wanted = parse_reference(reference, field)
    newest = not wanted.version and not wanted.alias
    if newest and upstream.makes_model(wanted.name):
        return None
    return inputs.models.resolve(reference, field)


def no_language_model(message: str, field: str, remedy: str) -> FailedPrecondition:
    """The refusal of a data set that names no language model, where one has to run."""
    return FailedPrecondition(message, code="NO_LANGUAGE_MODEL", field=field, remedy=remedy)


def _check_rows(spec: EvaluateSpec, manifest: DatasetManifest) -> None:
    if not manifest.heldout_rows:
        raise FailedPrecondition(
            f"data set {spec.dataset} holds no rows out",
            code="NO_HELDOUT_ROWS",
            field=f"{_FIELD}.dataset",
            remedy="evaluate on a data set made with heldout_fraction above 0",
        )
    needs_model = spec.loss_recovered is not None
    if needs_model and (manifest.language_model is None or manifest.tokenization is None):
        raise no_language_model(
            f"data set {spec.dataset} names no language model to splice into",
            f"{_FIELD}.loss_recovered",
            "leave loss_recovered out, or evaluate on a harvested data set",
        )


def _with_sources(
    spec: EvaluateSpec, manifest: DatasetManifest, versions: Sequence[ModelVersion | None]
) -> EvaluateSpec:
    """The spec with its source named where there is one model; several may read different ones, so
    each is checked and the spec is left as it is."""
    found = [_with_source(spec, manifest, version) for version in versions]
    return found[0] if len(found) == 1 else spec


def _with_source(
    spec: EvaluateSpec, manifest: DatasetManifest, version: ModelVersion | None
) -> EvaluateSpec:
    """The spec with its source named where the model reads one: as asked, else as the model was
    trained, else the only; a model that a job waited for makes says nothing yet."""
    if version is None:
        only = spec.source is not None or len(manifest.sources) == 1
        source = source_of(manifest, spec.source, f"{_FIELD}.source") if only else None
        return spec.model_copy(update={"source": source.name}) if source else spec
    config = version.config
    try:
        sources = judged_sources(
            config, spec.source, manifest, lambda name, field: _find(manifest, name, field)
        )
        check_widths(version.resource, config, sources, spec.dataset)
    except SpecError as error:
        raise _refused(error) from None
    except DataMismatchError as error:
        raise InvalidInput(
            error.message, code=error.code, field=f"{_FIELD}.source", remedy=error.remedy
        ) from None
    if len(config.inputs) > 1:
        return spec
    return spec.model_copy(update={"source": sources[0].name})
