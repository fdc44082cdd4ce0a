"""What every job index must do about the machines that workers tell of."""

from __future__ import annotations

import time

from saeserve.core.planning.machine import Machine
from saeserve.jobs.ports import JobIndex


def machine(kind: str = "Ångström 7, 2 threads", memory_bytes: int = 2**34) -> Machine:
    return Machine(kind=kind, memory_bytes=memory_bytes)


def test_machines_come_back_as_told(index: JobIndex) -> None:
    assert index.machines("cpu") == []
    index.announce("cpu", "w-1", machine(), 60.0)
    assert index.machines("cpu") == [machine()]


def test_machines_are_those_of_the_class_by_worker(index: JobIndex) -> None:
    index.announce("cpu", "w-2", machine("second"), 60.0)
    index.announce("cpu", "w-1", machine("first"), 60.0)
    index.announce("gpu", "w-1", machine("third"), 60.0)
    assert [each.kind for each in index.machines("cpu")] == ["first", "second"]
    assert [each.kind for each in index.machines("gpu")] == ["third"]


def test_a_worker_that_tells_again_is_one(index: JobIndex) -> None:
    index.announce("cpu", "w-1", machine(memory_bytes=1), 60.0)
    index.announce("cpu", "w-1", machine(memory_bytes=2), 60.0)
    assert [each.memory_bytes for each in index.machines("cpu")] == [2]


def test_a_worker_that_falls_silent_is_forgotten(index: JobIndex) -> None:
    index.announce("cpu", "w-1", machine("silent"), 0.02)
    index.announce("cpu", "w-2", machine("heard"), 60.0)
    time.sleep(0.05)
    assert [each.kind for each in index.machines("cpu")] == ["heard"]
    index.announce("cpu", "w-1", machine("back"), 60.0)
    assert [each.kind for each in index.machines("cpu")] == ["back", "heard"]
