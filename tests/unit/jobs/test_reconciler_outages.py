"""What the reconciler does when index or store were away, or are not what they should be."""

from __future__ import annotations

import pytest
from tests.fakes.jobs import (
    TTL,
    event,
    look,
    record,
    states_told,
)
from tests.fakes.reconciled import SCAN, STRIDE, World

from saeserve.errors import Unavailable
from saeserve.jobs.events import EventLog
from saeserve.jobs.payloads import LogWritten
from saeserve.jobs.ports import IndexUnavailable
from saeserve.jobs.record import Beat, Failure
from saeserve.jobs.states import JobState


def test_an_outage_shorter_than_patience_costs_no_lease(world: World) -> None:
    world.submit("j-1")
    lease = world.begin()
    world.index.down = True
    for _ in range(10):
        with pytest.raises(IndexUnavailable):
            world.tick(TTL)
    world.index.down = False
    assert world.tick().expired == 0
    assert world.index.beat(lease, TTL, None) is Beat.OK
    for _ in range(3):
        world.index.beat(lease, TTL, None)
        assert world.wait(TTL - STRIDE)["expired"] == 0
    assert world.state() is JobState.RUNNING


def test_after_an_outage_a_dead_worker_is_found(world: World) -> None:
    world.submit("j-1")
    world.begin()
    world.index.down = True
    with pytest.raises(IndexUnavailable):
        world.tick(10 * TTL)
    world.index.down = False
    assert world.wait(TTL)["expired"] == 0
    assert world.wait(2 * STRIDE)["expired"] == 1


def test_a_silent_broker_stops_nothing_else(world: World) -> None:
    world.submit("j-1")
    world.begin()
    world.commit("j-1", JobState.SUCCEEDED)
    world.submit("j-2")
    world.doorbell.down = True
    for _ in range(round(SCAN)):
        with pytest.raises(IndexUnavailable):
            world.tick()
    assert world.state() is JobState.SUCCEEDED


# Rebuild


def test_a_lost_index_is_rebuilt(world: World) -> None:
    world.submit("j-run")
    running = world.begin()
    folder = world.ledger.store.path(world.ledger.attempt_key("j-run", 1))
    with EventLog(folder / "events.jsonl", 1) as log:
        first, second = log.append(LogWritten()), log.append(LogWritten())
    world.submit("j-queue")
    world.submit("j-wait", "j-run")
    world.submit("j-done")
    world.commit("j-done", JobState.SUCCEEDED)
    world.submit("j-cancel")
    world.ledger.request_cancel("j-cancel")
    world.index.forget()
    assert world.index.beat(running, TTL, None) is Beat.UNKNOWN

    report = world.tick()
    assert (report.rebuilt, report.indexed) == (True, 5)
    assert world.index.generation() is not None
    assert {job: world.state(job) for job in world.index.ids()} == {
        "j-run": JobState.RUNNING,
        "j-queue": JobState.QUEUED,
        "j-wait": JobState.BLOCKED,
        "j-done": JobState.SUCCEEDED,
        "j-cancel": JobState.CANCELLED,
    }
    assert world.index.beat(running, TTL, None) is Beat.OK
    assert [e.event for e in world.index.events("j-run", 0, 2)] == [first, second]
    assert not world.index.append("j-run", second)
    assert world.index.append("j-run", event(2))
    assert not world.tick().rebuilt


def test_a_rebuilt_lease_without_worker_runs_out(world: World) -> None:
    world.submit("j-1")
    world.begin()
    world.index.forget()
    world.tick()
    assert world.state() is JobState.RUNNING
    assert world.lose_worker()["expired"] == 1
    assert world.state() is JobState.QUEUED


def test_a_rebuild_cut_short_is_done_again(world: World) -> None:
    for number in range(3):
        world.submit(f"j-{number}")
    world.index.forget()
    world.index.put(record("j-1"))
    assert world.tick().indexed == 2
    assert world.index.ids() == ["j-2", "j-1", "j-0"]


def test_an_unreadable_job_stops_no_other(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.submit("j-1")
    world.submit("j-2")
    world.ledger.store.replace("jobs/j-1/job.json", b"{")
    world.index.forget()
    report = world.tick()
    assert (report.indexed, report.unreadable) == (1, 1)
    assert world.index.ids() == ["j-2"]
    assert "jobs/j-1/job.json" in caplog.text


def test_a_job_that_the_store_does_not_hold_fails_after_a_while(world: World) -> None:
    world.index.put(record("j-1"))
    world.index.put(record("j-2"))
    world.index.request_cancel("j-2")
    world.tick()
    assert world.state() is JobState.QUEUED
    world.scan()
    world.scan()
    for job in ("j-1", "j-2"):
        failure = look(world.index, job).failure
        assert failure is not None
        assert (world.state(job), failure.code) == (JobState.FAILED, "JOB_LOST")
        result = world.ledger.result(job)
        assert result is not None
        assert result.failure == failure
    assert world.index.unsettled() == []
    assert world.ledger.jobs() == []


def test_a_job_that_is_back_in_time_goes_on(world: World) -> None:
    world.submit("j-1")
    world.submit("j-2", "j-1")
    folder, away = world.ledger.store.path("jobs"), world.ledger.store.root / "away"
    folder.rename(away)
    world.tick()
    world.tick()
    away.rename(folder)
    world.scan()
    world.scan()
    assert (world.state("j-1"), world.state("j-2")) == (JobState.QUEUED, JobState.BLOCKED)


def test_what_an_earlier_release_gave_up_as_lost_is_taken_back(world: World) -> None:
    lost = Failure(code="JOB_LOST", message="the store did not hold it")
    for job in ("j-1", "j-2", "j-3"):
        world.submit(job)
        world.index.finish(job, 0, JobState.FAILED, (), lost)
    world.commit("j-2", JobState.SUCCEEDED)
    world.commit("j-3", JobState.FAILED, lost)
    world.reconciler = world.another("R1")
    world.scan()
    states = [world.state(job) for job in ("j-1", "j-2", "j-3")]
    assert states == [JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED]
    assert world.index.acquire("cpu", "A", TTL) is not None


def test_nothing_is_decided_while_the_store_is_away(world: World) -> None:
    world.submit("j-1")
    world.begin()
    world.submit("j-2", "j-1")

    def away() -> None:
        raise Unavailable("not mounted", code="STORE_UNAVAILABLE")

    world.reconciler = world.another("R1", prove=away)
    before = {job: look(world.index, job) for job in ("j-1", "j-2")}
    for _ in range(20):
        world.clock.advance(STRIDE)
        with pytest.raises(Unavailable):
            world.reconciler.tick()
    assert {job: look(world.index, job) for job in ("j-1", "j-2")} == before
    assert world.doorbell.rings == {}


def test_states_are_told_in_order(world: World) -> None:
    world.submit("j-1", max_attempts=2)
    world.begin()
    world.lose_worker()
    world.begin("B")
    world.commit("j-1", JobState.SUCCEEDED)
    world.scan()
    assert states_told(world.index) == [
        "QUEUED",
        "STARTING",
        "RUNNING",
        "QUEUED",
        "STARTING",
        "RUNNING",
        "SUCCEEDED",
    ]
