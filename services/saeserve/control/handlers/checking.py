"""From a spec as it came to one that is read, and to the resource class of its job."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from saeserve.core.specs.jobs import JobSpec
from saeserve.errors import SpecError
from saeserve.platform.status import refused_spec


def parse_spec(spec: Mapping[str, object]) -> JobSpec:
    """Read a spec. Raises InvalidInput; the field is a path from the request."""
    try:
        return JobSpec.parse(spec, "")
    except SpecError as error:
        raise refused_spec(error if error.field == "spec" else error.under("spec")) from None


def device_class(device: str, auto: Callable[[], str]) -> str:
    """The resource class that a job's device asks for; `auto` gives the server's choice."""
    asked = {"cpu": "cpu", "cuda": "gpu"}
    return asked[device] if device in asked else auto()
