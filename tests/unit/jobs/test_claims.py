"""Epochs are handed out once, attempts are counted, and the first result wins."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.fakes.jobs import submission

from saeserve.jobs.errors import AttemptsExhausted, ClaimRefused, JobFinished
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Claim, Failure, Lease, Output, Result
from saeserve.jobs.states import JobState


def lease_of(claim: Claim) -> Lease:
    return Lease(job=claim.job, epoch=claim.epoch, owner=claim.owner)


def result(state: JobState = JobState.SUCCEEDED, epoch: int = 1) -> Result:
    output = Output(model=f"models/m/versions/{epoch}")
    return Result(job="j-1", epoch=epoch, state=state, outputs=(output,), steps=10, time=99.0)


def test_epochs_count_up(ledger: Ledger) -> None:
    ledger.submit(submission())
    assert ledger.highest_epoch("j-1") == 0
    first = ledger.claim("j-1", "A", 10.0)
    second = ledger.claim("j-1", "B", 20.0)
    assert (first.epoch, first.owner, first.charged, first.time) == (1, "A", True, 10.0)
    assert (second.epoch, second.resume, second.resume_step) == (2, "", 0)
    assert ledger.highest_epoch("j-1") == 2


def test_racing_owners_get_different_epochs(ledger: Ledger) -> None:
    ledger.submit(submission(max_attempts=100))
    gate = threading.Barrier(8)

    def claim(worker: int) -> list[int]:
        gate.wait()
        return [ledger.claim("j-1", f"w{worker}", 0.0).epoch for _ in range(3)]

    with ThreadPoolExecutor(8) as pool:
        epochs = [epoch for some in pool.map(claim, range(8)) for epoch in some]
    assert sorted(epochs) == list(range(1, 25))


def test_a_folder_without_claim_is_no_epoch(ledger: Ledger) -> None:
    ledger.submit(submission())
    ledger.store.path("jobs/j-1/attempts/1").mkdir(parents=True)
    assert ledger.highest_epoch("j-1") == 0
    assert ledger.claim("j-1", "A", 0.0).epoch == 1


def test_attempts_are_exhausted(ledger: Ledger) -> None:
    ledger.submit(submission(max_attempts=2))
    for _ in range(2):
        assert not ledger.exhausted("j-1")
        ledger.claim("j-1", "A", 0.0)
    assert ledger.exhausted("j-1")
    with pytest.raises(AttemptsExhausted, match="2 attempts") as caught:
        ledger.claim("j-1", "A", 0.0)
    assert isinstance(caught.value, ClaimRefused)
    assert ledger.highest_epoch("j-1") == 2


def test_the_attempt_after_a_drain_is_free(ledger: Ledger) -> None:
    ledger.submit(submission(max_attempts=1))
    for epoch in range(1, 5):
        claim = ledger.claim("j-1", "A", 0.0)
        assert (claim.epoch, claim.charged) == (epoch, epoch == 1)
        assert ledger.mark_released(lease_of(claim))
        assert not ledger.mark_released(lease_of(claim))
    ledger.claim("j-1", "A", 0.0)
    with pytest.raises(AttemptsExhausted):
        ledger.claim("j-1", "A", 0.0)


def test_a_finished_job_is_not_claimed(ledger: Ledger) -> None:
    ledger.submit(submission())
    ledger.finish(result())
    with pytest.raises(JobFinished, match="SUCCEEDED"):
        ledger.claim("j-1", "A", 0.0)


def test_the_first_result_wins(ledger: Ledger) -> None:
    ledger.submit(submission())
    assert ledger.result("j-1") is None
    assert ledger.finish(result(epoch=2)) == result(epoch=2)
    assert ledger.finish(result(JobState.FAILED, epoch=1)) == result(epoch=2)
    assert ledger.result("j-1") == result(epoch=2)


def test_racing_results_have_one_winner(ledger: Ledger) -> None:
    ledger.submit(submission())
    gate = threading.Barrier(8)

    def finish(epoch: int) -> int:
        gate.wait()
        return ledger.finish(result(epoch=epoch)).epoch

    with ThreadPoolExecutor(8) as pool:
        winners = set(pool.map(finish, range(1, 9)))
    committed = ledger.result("j-1")
    assert committed is not None
    assert winners == {committed.epoch}


def test_a_cancel_is_wished_once(ledger: Ledger) -> None:
    ledger.submit(submission())
    assert not ledger.cancel_requested("j-1")
    assert ledger.request_cancel("j-1")
    assert not ledger.request_cancel("j-1")
    assert ledger.cancel_requested("j-1")


def test_the_first_failure_of_an_attempt_stays(ledger: Ledger) -> None:
    ledger.submit(submission())
    lease = lease_of(ledger.claim("j-1", "A", 0.0))
    assert ledger.failure("j-1", 1) is None
    assert ledger.write_failure(lease, Failure(code="OOM_GPU", message="m"))
    assert not ledger.write_failure(lease, Failure(code="OTHER", message="m"))
    assert ledger.failure("j-1", 1) == Failure(code="OOM_GPU", message="m")
