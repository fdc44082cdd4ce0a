"""From a spec as it came to a spec that can run, and the plan of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from saeserve.control.handlers.check_data import check_harvest, check_ingest
from saeserve.control.handlers.check_interchange import check_export, check_import
from saeserve.control.handlers.check_model import check_evaluate, check_train
from saeserve.control.handlers.inputs import Inputs, Upstream
from saeserve.core.planning.machine import Fleet
from saeserve.core.planning.plan import Plan
from saeserve.core.specs.field_sources import sources_of
from saeserve.core.specs.jobs import JobSpec
from saeserve.errors import InvalidInput, SpecError
from saeserve.platform.status import refused_spec


def parse_spec(spec: Mapping[str, object]) -> JobSpec:
    """Read a spec. Raises InvalidInput; the field is a path from the request."""
    try:
        return JobSpec.parse(spec, "")
    except SpecError as error:
        raise refused_spec(error if error.field == "spec" else error.under("spec")) from None


def checked(
    given: Mapping[str, object], spec: JobSpec, inputs: Inputs, upstream: Upstream, fleet: Fleet
) -> tuple[JobSpec, Plan]:
    """The resolved form of `spec`, which was `given` as plain fields, and its plan on the workers
    of its class. Raises ServiceErrors naming the field that cannot be."""
    fields = cast("Mapping[str, object]", given[spec.kind])
    if spec.train is not None:
        train, plan = check_train(fields, spec.train, inputs, upstream, fleet)
        return JobSpec(train=train), plan
    resolved, plan = _checked(spec, inputs, upstream)
    sources = sources_of(fields, resolved.to_json()[spec.kind])
    return resolved, plan.model_copy(update={"field_sources": sources})


def _checked(spec: JobSpec, inputs: Inputs, upstream: Upstream) -> tuple[JobSpec, Plan]:
    if spec.evaluate is not None:
        evaluate, plan = check_evaluate(spec.evaluate, inputs, upstream)
        return JobSpec(evaluate=evaluate), plan
    if spec.harvest is not None:
        return spec, check_harvest(spec.harvest, inputs)
    if spec.ingest is not None:
        return spec, check_ingest(spec.ingest, inputs)
    if spec.import_model is not None:
        return spec, check_import(spec.import_model, inputs)
    if spec.export_model is not None:
        export, plan = check_export(spec.export_model, inputs, upstream)
        return JobSpec(export_model=export), plan
    raise InvalidInput("no job kind is set", field="spec", remedy="set one kind")


def device_class(spec: JobSpec, auto: Callable[[], str]) -> str:
    """The resource class that the spec's device asks for; `auto` gives the server's choice."""
    job = spec.train or spec.harvest or spec.evaluate
    device = job.device if job else "cpu"
    asked = {"cpu": "cpu", "cuda": "gpu"}
    return asked[device] if device in asked else auto()
