"""Whether a job may be queued: the machines of its class, as their workers tell of them."""

from __future__ import annotations

import logging

from saeserve.core.specs.machine import Fleet
from saeserve.core.specs.memory import Plan
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.platform.errors import FailedPrecondition

log = logging.getLogger(__name__)


def fleet_of(index: JobIndex, resource_class: str) -> Fleet:
    """The workers of the class; without the index it is as if there were none."""
    try:
        machines = tuple(index.machines(resource_class))
    except IndexUnavailable as error:
        log.warning("planning without machines: %s", error)
        machines = ()
    return Fleet(resource_class=resource_class, machines=machines)


def admit(plan: Plan) -> None:
    """Raise FailedPrecondition for a job that no worker could run to its end."""
    refusal = plan.refusal
    if refusal is not None:
        raise FailedPrecondition(
            refusal.message, reason=refusal.code, field="spec.train", remedy=refusal.remedy
        )
