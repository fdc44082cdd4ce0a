"""From a spec as it came to a spec that can run, and the plan of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from saeserve.control.handlers.inputs import Inputs, Upstream
from saeserve.control.handlers.kind import PlanContext
from saeserve.control.handlers.kinds import kind_of
from saeserve.core.planning.machine import Fleet
from saeserve.core.planning.plan import Plan
from saeserve.core.specs.jobs import JobSpec
from saeserve.errors import SpecError
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
    return kind_of(spec).check(PlanContext(fields, inputs, upstream, fleet))


def device_class(spec: JobSpec, auto: Callable[[], str]) -> str:
    """The resource class that the spec's device asks for; `auto` gives the server's choice."""
    device = kind_of(spec).device
    asked = {"cpu": "cpu", "cuda": "gpu"}
    return asked[device] if device in asked else auto()
