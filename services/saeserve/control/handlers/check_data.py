"""Checks of the jobs that make data sets: harvest and ingest."""

from __future__ import annotations

from saeserve.control.handlers.inputs import Inputs
from saeserve.control.handlers.model_folder import ModelFacts, language_model_facts
from saeserve.core.planning.plan import Plan
from saeserve.core.planning.sizes import VALUE_BYTES
from saeserve.core.specs.jobs import HarvestSpec, IngestSpec
from saeserve.errors import FailedPrecondition, InvalidInput, SpecError
from saeserve.platform.status import refused_spec
from saeserve.registry.dataset import DatasetState
from saeserve.registry.dataset_errors import taken, takes_no_ingest


def check_harvest(spec: HarvestSpec, inputs: Inputs) -> tuple[HarvestSpec, Plan]:
    """The spec, resolved as far as it can be here, and the plan.

    Raises Conflict for a taken name, InvalidInput and NotFound for bad sources.
    """
    if inputs.datasets.exists(spec.dataset):
        raise taken(spec.dataset, inputs.datasets.get(spec.dataset).job)
    facts = language_model_facts(spec.language_model, inputs.roots)
    for index, text in enumerate(spec.texts):
        field = f"spec.harvest.texts[{index}].path"
        inputs.roots.check(text.path, field)
        if inputs.roots.present(text.path):
            inputs.roots.resolve(text.path, field)
    _check_layers(spec, facts)
    return _resolved(spec, facts), _harvest_plan(spec, facts)


def check_ingest(spec: IngestSpec, inputs: Inputs) -> Plan:
    """The plan. Raises NotFound, and FailedPrecondition for a data set that takes no ingest."""
    field = "spec.ingest.dataset"
    found = inputs.datasets.get(spec.dataset, field)
    if found.state is not DatasetState.PENDING or found.job:
        raise takes_no_ingest(found, field)
    busy = inputs.use.ingesting(spec.dataset)
    if busy:
        raise FailedPrecondition(
            f"job {busy[0]} ingests data set {spec.dataset} already",
            code="INGEST_RUNS",
            field=field,
            remedy="wait for that job, or cancel it",
        )
    paths = inputs.datasets.paths(spec.dataset)
    return Plan(disk_bytes=sum(path.stat().st_size for path in paths))


def _check_layers(spec: HarvestSpec, facts: ModelFacts) -> None:
    for index, site in enumerate(spec.sites):
        if facts.layers and site.layer >= facts.layers:
            raise InvalidInput(
                f"the language model has {facts.layers} layers; there is no layer {site.layer}",
                code="NO_SUCH_LAYER",
                field=f"spec.harvest.sites[{index}].layer",
                remedy=f"choose 0 to {facts.layers - 1}",
            )


def _resolved(spec: HarvestSpec, facts: ModelFacts) -> HarvestSpec:
    """With its context_length, where the model's positions are known."""
    if not facts.positions:
        return spec
    length = spec.context_of(facts.positions)
    if length > facts.positions:
        raise InvalidInput(
            f"{length} exceeds the language model's {facts.positions} positions",
            code="CONTEXT_TOO_LONG",
            field="spec.harvest.context_length",
            remedy=f"choose at most {facts.positions}, or leave it unset",
        )
    try:
        return spec.with_context(length)
    except SpecError as error:
        raise refused_spec(error.under("spec")) from None


def _harvest_plan(spec: HarvestSpec, facts: ModelFacts) -> Plan:
    if not spec.max_tokens or not facts.width:
        note = "disk is known when max_tokens is set and the model's config.json can be read here"
        return Plan(steps=spec.max_tokens, notes=(note,))
    row = sum(facts.width_of(site) for site in spec.sites) * VALUE_BYTES[spec.dtype]
    return Plan(steps=spec.max_tokens, disk_bytes=spec.max_tokens * row)
