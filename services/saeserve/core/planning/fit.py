"""Whether a fleet's machines hold a job: in their own memory, and behind an accelerator in the
host's as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saeserve.core.planning.footprint import Memory
from saeserve.core.planning.machine import Fleet, Machine
from saeserve.core.planning.refusal import Refusal, gib, refusal
from saeserve.core.planning.sizes import TrainingData
from saeserve.core.specs.training import TrainSpec


@dataclass(frozen=True)
class Needs:
    """Bytes that a job takes at its peak; `host` is 0 where it computes on the host itself."""

    memory: int
    host: int

    def fit(self, machine: Machine) -> bool:
        """Whether the machine has both, as far as it says what it has."""
        return machine.memory_bytes >= self.memory and self.fit_host(machine)

    def fit_host(self, machine: Machine) -> bool:
        """Whether the host's memory is enough, or not known."""
        return not machine.host_memory_bytes or machine.host_memory_bytes >= self.host


def largest_of(fleet: Fleet, needs: Needs) -> Machine:
    """The machine that has most memory; of those that hold the job in it, preferably one whose host
    does as well, else the one whose host has most."""

    def size(machine: Machine) -> tuple[bool, bool, int, int]:
        holds = machine.memory_bytes >= needs.memory
        host = machine.host_memory_bytes
        own = machine.memory_bytes
        if holds and not needs.fit_host(machine):
            return holds, False, host, own
        return holds, holds, own, host

    return max(fleet.machines, key=size)


def refused_by(
    machine: Machine, fleet: Fleet, members: Sequence[TrainSpec], data: TrainingData
) -> Refusal | None:
    """Why the fleet's largest machine would refuse the job, if it would."""
    where = f"the largest worker of class {fleet.resource_class}"
    refused = refusal(members, data, machine.memory_bytes, where, fleet.memory)
    if refused is not None or not machine.host_memory_bytes:
        return refused
    host = f"the host memory of {where}"
    return refusal(members, data, machine.host_memory_bytes, host, Memory.HOST)


def fit_notes(fleet: Fleet, large: int, needs: Needs) -> list[str]:
    """Says that only `large` of the machines hold the job, where that is some of them."""
    small = len(fleet.machines) - large
    if not small or not large:
        return []
    host = f" or less than {gib(needs.host)} of host memory" if needs.host else ""
    return [
        f"{small} of {len(fleet.machines)} workers of class {fleet.resource_class} have less than "
        f"{gib(needs.memory)} of memory{host} and would refuse the job"
    ]
