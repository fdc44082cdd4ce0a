"""The reconciler loses no job, whatever message, worker or index is lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from tests.fakes.jobs import (
    TTL,
    Clock,
    CountingDoorbell,
    event,
    lease_of,
    look,
    record,
    states_told,
    submission,
)
from tests.fakes.memory_index import MemoryIndex

from saeserve.jobs.events import EventLog
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import IndexUnavailable
from saeserve.jobs.reconciler import Pace, Reconciler, TickReport
from saeserve.jobs.record import Beat, Failure, JobRecord, Lease, Result, Submission
from saeserve.jobs.states import JobState

SCAN = 20.0
STRIDE = 5.0
COUNTED = ("indexed", "expired", "applied", "cancelled", "failed", "rung")


@dataclass
class World:
    """Store, index, doorbell and reconciler around one clock."""

    ledger: Ledger
    clock: Clock = field(default_factory=Clock)
    doorbell: CountingDoorbell = field(default_factory=CountingDoorbell)

    def __post_init__(self) -> None:
        self.index = MemoryIndex(self.clock)
        self.reconciler = self.another("R1")
        self.index.set_generation("g0")
        # Patience after the first contact.
        self.wait(2 * TTL)

    def another(self, owner: str) -> Reconciler:
        return Reconciler(
            self.ledger,
            self.index,
            self.doorbell,
            owner=owner,
            pace=Pace(lease_ttl_s=TTL, scan_every_s=SCAN, lead_ttl_s=10.0),
            monotonic=self.clock,
            now=self.clock,
        )

    def tick(self, seconds: float = 1.0) -> TickReport:
        self.clock.advance(seconds)
        return self.reconciler.tick()

    def wait(self, seconds: float) -> Counter[str]:
        """Let time pass with a tick every few seconds; what they did in sum."""
        done: Counter[str] = Counter()
        for _ in range(round(seconds / STRIDE)):
            report = self.tick(STRIDE)
            done.update({name: getattr(report, name) for name in COUNTED})
        return done

    def scan(self) -> Counter[str]:
        """Until the store has been looked through; too short for a lease to run out."""
        return self.wait(SCAN)

    def lose_worker(self) -> Counter[str]:
        """Until the lease of a worker that went silent has run out."""
        return self.wait(TTL + STRIDE)

    def submit(self, job: str, *waits_for: str, max_attempts: int = 3) -> Submission:
        submitted = self.ledger.submit(
            submission(job, waits_for=waits_for, max_attempts=max_attempts)
        )
        state = JobState.BLOCKED if waits_for else JobState.QUEUED
        self.index.put(JobRecord(submission=submitted, state=state))
        return submitted

    def begin(self, owner: str = "A") -> Lease:
        taken = self.index.acquire("cpu", owner, TTL)
        assert taken is not None
        claim = self.ledger.claim(taken.id, owner, self.clock())
        lease = lease_of(taken, claim.epoch)
        assert self.index.start(lease, claim.charged)
        return lease

    def commit(self, job: str, state: JobState, failure: Failure | None = None) -> None:
        self.ledger.finish(
            Result(job=job, epoch=1, state=state, failure=failure, time=self.clock())
        )

    def state(self, job: str = "j-1") -> JobState:
        return look(self.index, job).state

    def both(self, job: str = "j-1") -> tuple[JobState, JobState]:
        """What index and store say."""
        return self.state(job), self.ledger.record(job).state


@pytest.fixture
def world(ledger: Ledger) -> World:
    return World(ledger)


def twice(state: JobState) -> tuple[JobState, JobState]:
    return state, state


# Ringing


def test_rings_only_while_jobs_wait_and_no_ring_does(world: World) -> None:
    assert world.tick().rung == 0
    world.submit("j-1")
    assert world.tick().rung == 1
    assert world.tick().rung == 0
    world.doorbell.answer()
    assert world.tick().rung == 1
    world.doorbell.answer()
    world.begin()
    assert world.tick().rung == 0


def test_rings_each_class_for_its_own_jobs(world: World) -> None:
    for number in range(12):
        world.ledger.submit(submission(f"j-{number:02}", resource_class="gpu"))
    world.submit("j-99")
    world.scan()
    assert world.doorbell.rings == {"gpu": 8, "cpu": 1}


# Leadership


def test_one_of_two_leads_and_the_other_takes_over(world: World) -> None:
    other = world.another("R2")
    world.submit("j-1")
    assert world.tick().leading
    assert other.tick() == TickReport()
    world.clock.advance(11.0)
    assert other.tick().leading
    assert not world.reconciler.tick().leading


def test_two_that_both_act_do_no_harm(world: World) -> None:
    world.submit("j-1", max_attempts=1)
    lease = world.begin()
    world.lose_worker()
    before = world.index.get("j-1")
    assert world.both() == twice(JobState.FAILED)
    world.reconciler = world.another("R2")
    world.wait(2 * TTL)
    assert world.index.get("j-1") == before
    assert world.index.beat(lease, TTL, None) is Beat.FENCED


# What the index missed


def test_a_job_submitted_while_the_index_was_away_is_queued(world: World) -> None:
    world.ledger.submit(submission("j-1"))
    assert world.scan()["indexed"] == 1
    assert world.state() is JobState.QUEUED
    assert world.doorbell.rings["cpu"] == 1
    assert world.tick().jobs == {JobState.QUEUED: 1}


def test_a_result_that_the_index_missed_is_applied(world: World) -> None:
    world.submit("j-1")
    world.begin()
    world.commit("j-1", JobState.SUCCEEDED)
    assert world.scan()["applied"] == 1
    assert world.state() is JobState.SUCCEEDED
    assert world.scan()["applied"] == 0


def test_a_cancel_that_the_index_missed_reaches_the_worker(world: World) -> None:
    world.submit("j-1")
    lease = world.begin()
    world.ledger.request_cancel("j-1")
    world.scan()
    assert world.index.beat(lease, TTL, None) is Beat.CANCEL


@pytest.mark.parametrize("waits_for", [(), ("j-0",)])
def test_a_cancel_of_a_waiting_job_is_committed(world: World, waits_for: tuple[str, ...]) -> None:
    world.submit("j-0", *waits_for)
    world.submit("j-1", *waits_for)
    world.ledger.request_cancel("j-1")
    assert world.scan()["cancelled"] == 1
    assert world.both() == twice(JobState.CANCELLED)
    assert world.index.unsettled() == []


def test_a_cancel_that_only_the_index_did_is_committed(world: World) -> None:
    world.submit("j-1")
    world.ledger.request_cancel("j-1")
    world.index.request_cancel("j-1")
    assert world.ledger.result("j-1") is None
    world.tick()
    assert world.both() == twice(JobState.CANCELLED)


def test_a_result_committed_before_the_cancel_wins(world: World) -> None:
    world.submit("j-1")
    world.commit("j-1", JobState.SUCCEEDED)
    world.index.request_cancel("j-1")
    assert world.tick().applied == 1
    assert world.both() == twice(JobState.SUCCEEDED)


# Lost workers


def test_a_lost_worker_gives_its_job_back(world: World) -> None:
    world.submit("j-1")
    lease = world.begin()
    done = world.lose_worker()
    assert (done["expired"], done["rung"]) == (1, 1)
    assert world.state() is JobState.QUEUED
    assert world.index.beat(lease, TTL, None) is Beat.FENCED
    assert world.begin("B").epoch == 2


def test_a_worker_that_beats_keeps_its_job(world: World) -> None:
    world.submit("j-1")
    lease = world.begin()
    for _ in range(5):
        assert world.index.beat(lease, TTL, None) is Beat.OK
        assert world.wait(TTL - STRIDE)["expired"] == 0


def test_a_lost_worker_of_a_cancelled_job_ends_it(world: World) -> None:
    world.submit("j-1")
    world.begin()
    world.ledger.request_cancel("j-1")
    world.index.request_cancel("j-1")
    world.lose_worker()
    assert world.both() == twice(JobState.CANCELLED)


def test_a_worker_lost_after_its_result_is_not_run_again(world: World) -> None:
    world.submit("j-1")
    world.begin()
    world.commit("j-1", JobState.SUCCEEDED)
    assert world.lose_worker()["failed"] == 0
    assert world.state() is JobState.SUCCEEDED


def test_after_the_last_attempt_the_job_fails(world: World) -> None:
    world.submit("j-1", max_attempts=2)
    for _ in range(2):
        world.begin()
        assert world.state() is JobState.RUNNING
        world.lose_worker()
    assert world.both() == twice(JobState.FAILED)
    failure = look(world.index).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("WORKER_LOST", True)
    assert failure == world.ledger.record("j-1").failure


def test_the_failure_that_the_last_attempt_left_is_told(world: World) -> None:
    world.submit("j-1", max_attempts=1)
    left = Failure(code="OOM_GPU", message="needed 90 GB")
    world.ledger.write_failure(world.begin(), left)
    world.lose_worker()
    assert look(world.index).failure == left


def test_an_attempt_that_the_index_never_heard_of_counts(world: World) -> None:
    world.submit("j-1", max_attempts=1)
    world.ledger.claim("j-1", "A", world.clock())
    assert look(world.index).attempt == 0
    assert world.scan()["failed"] == 1
    assert world.both() == twice(JobState.FAILED)


def test_drains_do_not_exhaust(world: World) -> None:
    world.submit("j-1", max_attempts=1)
    for _ in range(4):
        lease = world.begin()
        world.ledger.mark_released(lease)
        world.index.release(lease, "drain")
        world.scan()
        assert world.state() is JobState.QUEUED


class LateLedger(Ledger):
    """A worker takes the last attempt after the reconciler has read that the job is QUEUED."""

    world: World | None = None

    def exhausted(self, job: str) -> bool:
        world, self.world = self.world, None
        if world:
            world.begin("late")
        return super().exhausted(job)


def test_a_job_taken_this_moment_is_not_given_up(ledger: Ledger) -> None:
    late = LateLedger(ledger.store)
    world = World(late)
    world.submit("j-1", max_attempts=1)
    late.world = world
    assert world.scan()["failed"] == 0
    assert late.world is None
    assert late.exhausted("j-1")
    assert world.state() is JobState.RUNNING


# Dependencies


def test_a_job_waits_for_all_it_depends_on(world: World) -> None:
    world.submit("j-a")
    world.submit("j-b")
    world.submit("j-c", "j-a", "j-b")
    world.commit("j-a", JobState.SUCCEEDED)
    assert world.tick().promoted == 0
    assert world.state("j-c") is JobState.BLOCKED
    world.commit("j-b", JobState.SUCCEEDED)
    assert world.tick().promoted == 1
    assert world.state("j-c") is JobState.QUEUED


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_job_fails_with_what_it_depends_on(world: World, state: JobState) -> None:
    world.submit("j-a")
    world.submit("j-b", "j-a")
    world.submit("j-c", "j-b")
    world.commit("j-a", state, Failure(code="X", message="no such layer"))
    world.tick()
    world.tick()
    assert world.both("j-b") == twice(JobState.FAILED)
    assert world.both("j-c") == twice(JobState.FAILED)
    failure = look(world.index, "j-b").failure
    assert failure is not None
    assert (failure.code, failure.cause) == ("DEPENDENCY_FAILED", "no such layer")
    assert f"j-a, which this one waits for, is {state}" in failure.message


def test_a_dependency_that_does_not_exist_fails_the_job(world: World) -> None:
    world.submit("j-b", "j-nowhere")
    world.tick()
    failure = look(world.index, "j-b").failure
    assert failure is not None
    assert "j-nowhere" in failure.message
    assert "does not exist" in failure.message


# Outages


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
        first, second = log.append("log"), log.append("log")
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


def test_a_job_that_the_store_does_not_hold_fails(world: World) -> None:
    world.index.put(record("j-1"))
    world.index.put(record("j-2"))
    world.index.request_cancel("j-2")
    world.scan()
    failure = look(world.index).failure
    assert failure is not None
    assert (world.state(), failure.code) == (JobState.FAILED, "JOB_LOST")
    assert world.index.unsettled() == []
    assert world.ledger.jobs() == []


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
