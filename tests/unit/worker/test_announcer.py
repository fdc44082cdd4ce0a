"""What a worker says of its machine, and how often."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
from tests.fakes.memory_index import MemoryIndex
from tests.fakes.worker_bench import until

from saeserve.core.planning.machine import Machine
from saeserve.worker.announcer import Announcer

TTL_S = 0.3
MACHINES = {
    "gpu": Machine(kind="NVIDIA Z", memory_bytes=2),
    "cpu": Machine(kind="Zen, 2 threads", memory_bytes=1),
}


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex()


@pytest.fixture
def announcer(index: MemoryIndex) -> Generator[Announcer]:
    made = Announcer(MACHINES, index, TTL_S)
    yield made
    made.close()


def test_every_class_is_announced_at_once(index: MemoryIndex, announcer: Announcer) -> None:
    announcer.start()
    until(lambda: bool(index.machines("cpu")))
    assert index.machines("gpu") == [MACHINES["gpu"]]
    assert index.machines("cpu") == [MACHINES["cpu"]]


def test_a_worker_that_lives_is_remembered_and_one_that_ended_is_not(
    index: MemoryIndex, announcer: Announcer
) -> None:
    announcer.start()
    until(lambda: bool(index.machines("cpu")))
    threading.Event().wait(2 * TTL_S)
    assert index.machines("cpu")
    announcer.stop()
    until(lambda: not index.machines("cpu") and not index.machines("gpu"))


def test_an_index_that_was_away_is_told_later(index: MemoryIndex, announcer: Announcer) -> None:
    index.down = True
    announcer.start()
    threading.Event().wait(TTL_S)
    index.down = False
    until(lambda: bool(index.machines("gpu")))
