"""What every job index must tell of a class's queue."""

from __future__ import annotations

import random
import time

import pytest
from tests.fakes.jobs import TTL, lease_of, record, run

from saeserve.core.planning.machine import Machine
from saeserve.jobs.ports import JobIndex

MACHINE = Machine(kind="two threads", memory_bytes=2**34)


def test_workers_are_those_of_the_class_that_are_heard_of(index: JobIndex) -> None:
    index.put(record())
    assert index.queue("cpu").workers == 0
    index.announce("gpu", "w-1", MACHINE, 60.0)
    index.announce("cpu", "w-2", MACHINE, 0.02)
    index.announce("cpu", "w-3", MACHINE, 60.0)
    time.sleep(0.05)
    assert index.queue("cpu").workers == 1
    assert index.queue("gpu").workers == 1


def test_an_empty_queue_has_no_order(index: JobIndex) -> None:
    run(index)
    queue = index.queue("cpu")
    assert (queue.queued, queue.order) == (0, ())
    assert index.queue("gpu").order == ()


def test_a_job_that_comes_back_is_in_its_place_again(index: JobIndex) -> None:
    lease = run(index)
    index.put(record("j-2"))
    assert index.queue("cpu").order == ("j-2",)
    index.release(lease, "STALLED")
    assert index.queue("cpu").order == ("j-1", "j-2")


@pytest.mark.parametrize("seed", range(8))
def test_the_order_is_that_in_which_jobs_are_taken(index: JobIndex, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(12):
        priority, owner = chance.choice((0, 0, 5)), chance.choice(("", "ann", "bob"))
        index.put(record(f"j-{number:02}", owner=owner, priority=priority))
    for number in range(chance.randrange(4)):
        assert index.acquire("cpu", f"early-{number}", TTL) is not None
    queue = index.queue("cpu")
    taken = [
        lease_of(index.acquire("cpu", f"worker-{number}", TTL)).job
        for number in range(queue.queued)
    ]
    assert list(queue.order) == taken
    assert index.acquire("cpu", "one more", TTL) is None
