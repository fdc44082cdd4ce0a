"""A job's end is told after all of its events, whoever tells it and whatever the index lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.fakes.jobs import Clock, states_told
from tests.fakes.reconciled import World

from saeserve.jobs.events import EventLog
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Event, Lease
from saeserve.jobs.states import JobState
from saeserve.jobs.telling import add_missing, tell_end


@pytest.fixture
def world(ledger: Ledger) -> World:
    return World(ledger)


def write(world: World, lease: Lease, count: int) -> list[Event]:
    """The job process writes events; nobody passes them on."""
    path = world.ledger.store.path(f"jobs/{lease.job}/attempts/{lease.epoch}/events.jsonl")
    with EventLog(path, lease.epoch, clock=Clock()) as log:
        return [log.append("log", data={"message": f"{lease.epoch}.{n}"}) for n in range(count)]


def heard(world: World, job: str = "j-1") -> list[str]:
    """What a watcher hears until the job's end, messages and states."""
    found: list[str] = []
    for each in world.index.events(job, 0, 1000):
        event = each.event
        found.append(event.data["message" if event.type == "log" else "state"])
    return found


def by_scan(world: World) -> None:
    world.commit("j-1", JobState.SUCCEEDED)
    world.scan()


def by_cancel(world: World) -> None:
    world.ledger.request_cancel("j-1")
    world.index.request_cancel("j-1")
    world.lose_worker()


def by_lost_attempts(world: World) -> None:
    world.lose_worker()


@pytest.mark.parametrize("end", [by_scan, by_cancel, by_lost_attempts])
def test_the_end_comes_after_every_event(world: World, end: Callable[[World], None]) -> None:
    world.submit("j-1", max_attempts=1)
    written = write(world, world.begin(), 5)
    end(world)
    told = heard(world)
    assert [word for word in told if word.startswith("1.")] == [
        event.data["message"] for event in written
    ]
    assert told[-1] in ("SUCCEEDED", "CANCELLED", "FAILED")


def test_events_of_earlier_attempts_are_among_them(world: World) -> None:
    world.submit("j-1")
    write(world, world.begin(), 3)
    world.lose_worker()
    write(world, world.begin("B"), 2)
    by_scan(world)
    assert [word for word in heard(world) if "." in word] == ["1.0", "1.1", "1.2", "2.0", "2.1"]


def test_what_the_index_has_is_not_told_twice(world: World) -> None:
    world.submit("j-1")
    events = write(world, world.begin(), 6)
    add_missing(world.index, "j-1", events[:4])
    by_scan(world)
    add_missing(world.index, "j-1", events)
    assert [word for word in heard(world) if "." in word] == [f"1.{n}" for n in range(6)]


def test_a_lost_tail_is_made_good_before_the_end(world: World) -> None:
    world.submit("j-1")
    lease = world.begin()
    events = write(world, lease, 6)
    add_missing(world.index, "j-1", events[:3])
    world.commit("j-1", JobState.SUCCEEDED)
    result = world.ledger.result("j-1")
    assert result is not None
    assert tell_end(world.ledger, world.index, result)
    assert not tell_end(world.ledger, world.index, result)
    assert heard(world)[-4:] == ["1.3", "1.4", "1.5", "SUCCEEDED"]
    assert states_told(world.index)[-1] == "SUCCEEDED"


def test_a_job_that_ended_before_a_rebuild_shows_that_its_events_are_not_here(
    world: World,
) -> None:
    world.submit("j-1")
    write(world, world.begin(), 6)
    by_scan(world)
    world.index.forget()
    world.scan()
    [only] = world.index.events("j-1", 0, 100)
    assert (only.sequence, only.event.data["state"]) == (7, "SUCCEEDED")
