"""The record that the store alone tells is the one that the index has."""

from __future__ import annotations

import pytest
from tests.fakes.jobs import TTL, lease_of, look, record, submission
from tests.fakes.memory_index import MemoryIndex

from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Failure, JobRecord, Lease, Output, Result
from saeserve.jobs.states import TERMINAL, JobState


class Life:
    """A job that lives in the ledger and in an index at once, as control and worker make it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.index = MemoryIndex()
        ledger.submit(submission())
        self.index.put(record())

    def begin(self, owner: str) -> Lease:
        taken = self.index.acquire("cpu", owner, TTL)
        claim = self.ledger.claim("j-1", owner, 5.0)
        lease = lease_of(taken, claim.epoch)
        assert self.index.start(lease, claim.charged)
        return lease

    def drain(self, lease: Lease) -> None:
        self.ledger.mark_released(lease)
        assert self.index.release(lease, "drain")

    def end(self, state: JobState, failure: Failure | None = None) -> None:
        outputs = (Output(model="models/m/versions/1", metrics={"fvu": 0.1}),)
        epoch = self.ledger.highest_epoch("j-1")
        wanted = Result(
            job="j-1", epoch=epoch, state=state, outputs=outputs, failure=failure, time=9.0
        )
        told = self.ledger.finish(wanted)
        self.index.finish("j-1", told.epoch, told.state, told.outputs, told.failure)

    def agrees(self) -> bool:
        return _essence(self.ledger.record("j-1")) == _essence(look(self.index))


def _essence(found: JobRecord) -> JobRecord:
    """Without what only the index keeps: lease times, moves counted, reasons, progress."""
    only_index = {"started": 0.0, "ended": 0.0, "beats": 0, "revision": 0, "reason": ""}
    return found.model_copy(update=only_index)


@pytest.fixture
def life(ledger: Ledger) -> Life:
    return Life(ledger)


def test_queued(life: Life) -> None:
    assert life.agrees()


def test_running(life: Life) -> None:
    life.begin("A")
    assert life.agrees()
    assert life.ledger.record("j-1").owner_id == "A"


def test_drained_and_running_again(life: Life) -> None:
    life.drain(life.begin("A"))
    assert life.agrees()
    life.begin("B")
    assert life.agrees()
    assert (life.ledger.record("j-1").attempt, life.ledger.record("j-1").epoch) == (1, 2)


def test_cancelling(life: Life) -> None:
    life.begin("A")
    life.ledger.request_cancel("j-1")
    life.index.request_cancel("j-1")
    assert life.agrees()
    assert life.ledger.record("j-1").state is JobState.CANCELLING


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_ended(life: Life, state: JobState) -> None:
    life.begin("A")
    life.end(state, Failure(code="X", message="m") if state is JobState.FAILED else None)
    assert life.agrees()
    assert life.ledger.record("j-1").state is state


def test_a_lost_attempt_counts_as_running_until_its_lease_is_known(life: Life) -> None:
    life.begin("A")
    life.index.expire(life.index.leases())
    assert look(life.index).state is JobState.QUEUED
    assert life.ledger.record("j-1").state is JobState.RUNNING


def test_times_and_steps_come_from_claims_and_result(ledger: Ledger) -> None:
    ledger.submit(submission())
    ledger.claim("j-1", "A", 5.0)
    ledger.claim("j-1", "B", 7.0)
    assert ledger.record("j-1").started == 5.0
    ledger.finish(Result(job="j-1", epoch=2, state=JobState.SUCCEEDED, steps=300, time=9.0))
    ended = ledger.record("j-1")
    assert (ended.ended, ended.progress.step, ended.owner_id) == (9.0, 300, "")


def test_blocked_until_all_it_waits_for_succeeded(ledger: Ledger) -> None:
    for job in ("j-a", "j-b"):
        ledger.submit(submission(job))
    waiting = ledger.submit(submission("j-c", waits_for=("j-a", "j-b")))
    ledger.finish(Result(job="j-a", epoch=1, state=JobState.SUCCEEDED, time=1.0))
    assert ledger.unmet(waiting) == ["j-b"]
    assert ledger.record("j-c").state is JobState.BLOCKED
    ledger.finish(Result(job="j-b", epoch=1, state=JobState.SUCCEEDED, time=1.0))
    assert ledger.record("j-c").state is JobState.QUEUED
