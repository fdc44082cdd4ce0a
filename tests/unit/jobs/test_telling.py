"""A job's end is told after all of its events, whoever tells it and whatever the index lost."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.fakes.jobs import TTL, Clock, look, states_told
from tests.fakes.reconciled import World
from tests.fakes.worker_bench import until

from saeserve.jobs import events
from saeserve.jobs.errors import Fenced
from saeserve.jobs.events import EventLog
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.payloads import LogWritten, MetricsReported, WarningRaised
from saeserve.jobs.record import Beat, Claim, Event, JobRecord, Lease, Progress, Result
from saeserve.jobs.states import JobState
from saeserve.jobs.telling import add_missing, tell_end
from saeserve.worker.report import Report


@pytest.fixture
def world(ledger: Ledger) -> World:
    return World(ledger)


def write(world: World, lease: Lease, count: int) -> list[Event]:
    """The job process writes events; nobody passes them on."""
    path = world.ledger.store.path(f"jobs/{lease.job}/attempts/{lease.epoch}/events.jsonl")
    with EventLog(path, lease.epoch, clock=Clock()) as log:
        return [log.append(LogWritten(message=f"{lease.epoch}.{n}")) for n in range(count)]


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


def test_nothing_is_written_after_the_end_that_is_not_among_them(world: World) -> None:
    """By a job process that goes on, as one does whose worker is cut off from the index."""
    world.submit("j-1", max_attempts=1)
    lease = world.begin()
    claim = Claim(job="j-1", epoch=lease.epoch, owner=lease.owner, time=0.0)
    with Report.open(world.ledger.store, world.ledger, claim) as report:
        report.log("before the end")
        by_lost_attempts(world)
        with pytest.raises(Fenced):
            report.log("after the end")
    assert [event.data["message"] for event in world.ledger.events("j-1")] == ["before the end"]
    assert "before the end" in heard(world)


def test_a_process_in_the_middle_of_an_event_is_waited_for(world: World) -> None:
    """It has looked at the fence and found none; its event is written and comes before the end."""
    world.submit("j-1", max_attempts=1)
    lease = world.begin()
    looked, go_on = threading.Event(), threading.Event()

    def check_fence() -> None:
        world.ledger.check_fence(lease)
        looked.set()
        assert go_on.wait(60)

    path = world.ledger.store.path(f"jobs/j-1/attempts/{lease.epoch}/events.jsonl")
    with (
        ThreadPoolExecutor(2) as threads,
        EventLog(path, lease.epoch, check_fence=check_fence) as log,
    ):
        written = threads.submit(log.append, LogWritten(message="1.0"))
        assert looked.wait(60)
        ended = threads.submit(by_lost_attempts, world)
        until(lambda: world.ledger.result("j-1") is not None)
        assert not ended.done()
        go_on.set()
        ended.result()
        written.result()
        with pytest.raises(Fenced):
            log.append(LogWritten(message="1.1"))
    assert [event.data["message"] for event in world.ledger.events("j-1")] == ["1.0"]
    assert heard(world)[-2:] == ["1.0", "FAILED"]


def test_a_process_that_stands_still_in_the_middle_of_an_event_holds_up_no_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PATIENCE_S", 0.05)
    world.submit("j-1", max_attempts=1)
    write(world, world.begin(), 2)
    path = world.ledger.store.path("jobs/j-1/attempts/1/events.jsonl")
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        by_lost_attempts(world)
    assert heard(world)[-3:] == ["1.0", "1.1", "FAILED"]


def test_events_of_earlier_attempts_are_among_them(world: World) -> None:
    world.submit("j-1")
    write(world, world.begin(), 3)
    world.lose_worker()
    write(world, world.begin("B"), 2)
    by_scan(world)
    assert [word for word in heard(world) if "." in word] == ["1.0", "1.1", "1.2", "2.0", "2.1"]


def test_what_a_worker_wrote_of_the_attempt_is_among_them_and_in_a_rebuilt_index(
    world: World,
) -> None:
    world.submit("j-1")
    lease = world.begin()
    write(world, lease, 2)
    folder = world.ledger.store.path(world.ledger.attempt_key("j-1", lease.epoch))
    with EventLog(folder / "worker.jsonl", 1, by_worker=True, clock=Clock()) as log:
        log.append(LogWritten(message="worker"))
    world.index.forget()
    world.scan()
    assert sorted(word for word in heard(world) if word != "RUNNING") == ["1.0", "1.1", "worker"]
    assert world.ledger.event_count("j-1") == 3
    by_scan(world)
    assert heard(world).count("worker") == 1
    assert [each.op for each in world.ledger.events("j-1")] == [0, 1]


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


def reports(world: World, lease: Lease, *steps: int, member: str = "", lost: str = "") -> None:
    """The job process reports metrics at `steps`, and that the member `lost` has diverged."""
    path = world.ledger.store.path(f"jobs/{lease.job}/attempts/{lease.epoch}/events.jsonl")
    with EventLog(path, lease.epoch, clock=Clock()) as log:
        for step in steps:
            data = {"metrics": {"tokens": 256.0 * step}, "unit": "steps", "total_steps": 781}
            data |= {"member": member} if member else {}
            log.append(MetricsReported.model_validate(data), step=step)
        if lost:
            log.append(WarningRaised(code="MEMBER_DIVERGED", member=lost))
        log.append(LogWritten(message="the end"))


def rebuilt(world: World) -> JobRecord:
    world.index.forget()
    world.scan()
    return look(world.index)


def succeed(world: World, lease: Lease, steps: int) -> None:
    """Commit the result; a scan finds it before the worker's next heartbeat."""
    state = JobState.SUCCEEDED
    world.ledger.finish(Result(job="j-1", epoch=lease.epoch, state=state, steps=steps, time=9.0))
    world.scan()
    assert world.index.beat(lease, TTL, Progress(step=770)) is Beat.FENCED


def test_a_result_found_before_the_last_heartbeat_shows_the_last_report(world: World) -> None:
    world.submit("j-1")
    lease = world.begin()
    world.index.beat(lease, TTL, Progress(step=770, total_steps=781, metrics={"tokens": 197120.0}))
    reports(world, lease, 770, 781)
    succeed(world, lease, 781)
    found = look(world.index)
    assert (found.progress.step, found.progress.total_steps) == (781, 781)
    assert found.progress.metrics == {"tokens": 256.0 * 781}
    assert states_told(world.index)[-1] == "SUCCEEDED"
    assert world.index.events("j-1", 0, 100)[-1].event.step == 781
    assert rebuilt(world).progress == found.progress


def test_the_final_progress_of_a_sweep_is_that_of_the_members_that_are_left(world: World) -> None:
    world.submit("j-1")
    lease = world.begin()
    for member in ("a", "b", "c"):
        reports(world, lease, 700, member=member)
    reports(world, lease, 781, member="a")
    reports(world, lease, 781, member="b", lost="b")
    reports(world, lease, 781, member="c")
    succeed(world, lease, 781)
    progress = look(world.index).progress
    assert (progress.step, sorted(progress.members)) == (781, ["a", "c"])
    assert progress.metrics["tokens"] == 2 * 256.0 * 781
    assert rebuilt(world).progress == progress


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_what_a_lost_attempt_reported_last_stays(world: World, state: JobState) -> None:
    world.submit("j-1", max_attempts=1)
    lease = world.begin()
    reports(world, lease, 10, 20)
    if state is JobState.CANCELLED:
        world.ledger.request_cancel("j-1")
        world.index.request_cancel("j-1")
    world.lose_worker()
    found = look(world.index)
    assert (found.state, found.progress.step, found.progress.total_steps) == (state, 20, 781)
    assert rebuilt(world).progress == found.progress


def test_an_attempt_that_found_nothing_left_to_do_shows_the_steps_of_the_earlier_one(
    world: World,
) -> None:
    world.submit("j-1")
    reports(world, world.begin(), 770, 781)
    world.lose_worker()
    lease = world.begin("B")
    succeed(world, lease, 781)
    found = look(world.index).progress
    assert (found.step, found.metrics["tokens"]) == (781, 256.0 * 781)
    assert rebuilt(world).progress == found
