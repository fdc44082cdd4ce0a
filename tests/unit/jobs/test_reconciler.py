"""The reconciler loses no job, whatever message, worker or index is lost."""

from __future__ import annotations

import pytest
from tests.fakes.jobs import (
    TTL,
    look,
    submission,
)
from tests.fakes.reconciled import STRIDE, World, twice

from saeserve.jobs.ledger import Ledger
from saeserve.jobs.reconciler import TickReport
from saeserve.jobs.record import Beat, Failure
from saeserve.jobs.states import JobState


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
