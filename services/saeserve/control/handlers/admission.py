"""Whether a job may be queued: the machines of its class, as their workers tell of them."""

from __future__ import annotations

import logging

from saeserve.core.planning.machine import Fleet, Machine
from saeserve.core.planning.plan import Plan
from saeserve.errors import FailedPrecondition
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.registry.speeds import SpeedBook

log = logging.getLogger(__name__)


def fleet_of(index: JobIndex, resource_class: str) -> Fleet:
    """The workers of the class; without the index it is as if there were none."""
    try:
        machines = tuple(index.machines(resource_class))
    except IndexUnavailable as error:
        log.warning("planning without machines: %s", error)
        machines = ()
    return Fleet(resource_class=resource_class, machines=machines)


class AutoClass:
    """The resource class of jobs whose device is "auto"."""

    def __init__(self, index: JobIndex, chosen: str) -> None:
        """`chosen` is "cpu", "gpu", or "auto": gpu while a live worker takes that class."""
        self._index = index
        self._chosen = chosen
        self._latest = "cpu"

    def __call__(self) -> str:
        """The class as of now; while the index is away, as it was when that last answered."""
        if self._chosen != "auto":
            return self._chosen
        try:
            self._latest = "gpu" if self._index.machines("gpu") else "cpu"
        except IndexUnavailable as error:
            log.warning("jobs of device auto get class %s as before: %s", self._latest, error)
        return self._latest


def with_speeds(fleet: Fleet, architecture: str, speeds: SpeedBook) -> Fleet:
    """The fleet with what jobs of the architecture took on machines of its kinds."""
    if not architecture:
        return fleet

    def known(machine: Machine) -> Machine:
        records = speeds.records(machine.kind, architecture)
        return machine.model_copy(update={"records": records})

    return fleet.model_copy(update={"machines": tuple(map(known, fleet.machines))})


def admit(plan: Plan, kind: str) -> None:
    """Raise FailedPrecondition for a job of `kind` that no worker could run to its end."""
    refusal = plan.refusal
    if refusal is not None:
        raise FailedPrecondition(
            refusal.message, code=refusal.code, field=f"spec.{kind}", remedy=refusal.remedy
        )
