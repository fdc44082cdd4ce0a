"""What every job index must do about leases, fencing and endings."""

from __future__ import annotations

import pytest
from tests.fakes.jobs import TTL, finish, lease_of, look, record, run, states_told

from saeserve.jobs.ports import JobIndex
from saeserve.jobs.record import Beat, Failure, Lease, Output, Progress
from saeserve.jobs.states import TERMINAL, JobState

# Leases and fencing


def test_start_records_the_epoch_and_charges_once(index: JobIndex) -> None:
    lease = run(index, epoch=3)
    assert index.start(lease, charged=True)
    found = look(index)
    assert (found.state, found.epoch, found.attempt) == (JobState.RUNNING, 3, 1)
    assert found.started > 0


def test_an_attempt_after_a_drain_is_not_charged(index: JobIndex) -> None:
    assert index.release(run(index), "drain")
    lease = lease_of(index.acquire("cpu", "B", TTL), 2)
    assert index.start(lease, charged=False)
    found = look(index)
    assert (found.epoch, found.attempt) == (2, 1)


def test_a_stranger_is_fenced(index: JobIndex) -> None:
    lease = run(index)
    for stranger in (
        lease.model_copy(update={"owner": "B"}),
        lease.model_copy(update={"owner": ""}),
        lease.model_copy(update={"epoch": 2}),
        lease.model_copy(update={"epoch": 0}),
    ):
        assert index.beat(stranger, TTL, Progress(step=99)) is Beat.FENCED
        assert not index.start(stranger, charged=True)
        assert not index.release(stranger, "x")
    assert index.beat(lease, TTL, None) is Beat.OK
    found = look(index)
    assert found.progress.step == 0


def test_beats_work_before_the_start_is_told(index: JobIndex) -> None:
    index.put(record())
    taken = index.acquire("cpu", "A", TTL)
    assert index.beat(lease_of(taken), TTL, None) is Beat.OK
    assert index.beat(lease_of(taken, 1), TTL, None) is Beat.OK
    assert look(index).state is JobState.STARTING


def test_an_older_epoch_of_the_same_owner_is_fenced(index: JobIndex) -> None:
    first = run(index)
    index.release(first, "x")
    taken = index.acquire("cpu", first.owner, TTL)
    assert index.beat(first, TTL, None) is Beat.FENCED
    assert not index.start(lease_of(taken, 1), charged=True)
    assert index.start(lease_of(taken, 2), charged=True)
    assert index.beat(first, TTL, None) is Beat.FENCED


def test_an_expired_lease_is_taken_back_and_its_owner_fenced(index: JobIndex) -> None:
    lease = run(index)
    [held] = index.leases()
    assert (held.job, held.ttl_s) == ("j-1", TTL)
    assert index.expire([]) == []
    [lost] = index.expire([held])
    assert (lost.id, lost.state, lost.owner_id) == ("j-1", JobState.QUEUED, "")
    assert index.leases() == []
    assert index.expire([held]) == []
    assert index.beat(lease, TTL, None) is Beat.FENCED
    second = lease_of(index.acquire("cpu", "B", TTL), 2)
    assert index.start(second, charged=True)
    assert index.beat(lease, TTL, None) is Beat.FENCED
    assert index.beat(second, TTL, None) is Beat.OK


def test_a_beat_renews_the_lease(index: JobIndex) -> None:
    lease = run(index)
    before = index.leases()
    index.beat(lease, 10 * TTL, Progress(step=7))
    assert index.expire(before) == []
    assert look(index).progress.step == 7
    [after] = index.leases()
    assert (after.job, after.ttl_s) == ("j-1", 10 * TTL)
    assert after.mark != before[0].mark


def test_the_next_holder_is_not_taken_for_the_one_before(index: JobIndex) -> None:
    index.release(run(index), "x")
    index.acquire("cpu", "B", TTL)
    before = index.leases()
    index.expire(before)
    index.acquire("cpu", "C", TTL)
    assert index.expire(before) == []


def test_a_late_finish_wins_over_the_next_attempt(index: JobIndex) -> None:
    run(index)
    index.expire(index.leases())
    second = lease_of(index.acquire("cpu", "B", TTL), 2)
    index.start(second, charged=True)
    # The store took the first attempt's result; the index is only told.
    assert finish(index, JobState.SUCCEEDED, epoch=1)
    found = look(index)
    assert (found.state, found.epoch) == (JobState.SUCCEEDED, 2)
    assert index.beat(second, TTL, None) is Beat.FENCED
    assert not index.release(second, "x")


def test_a_release_requeues_and_its_repeat_says_the_same(index: JobIndex) -> None:
    lease = run(index)
    assert index.release(lease, "drain")
    assert index.release(lease, "drain")
    found = look(index)
    assert (found.state, found.reason, found.owner_id) == (JobState.QUEUED, "drain", "")
    assert states_told(index) == ["QUEUED", "STARTING", "RUNNING", "QUEUED"]


def test_a_restored_lease_goes_on(index: JobIndex) -> None:
    restored = record().model_copy(
        update={"state": JobState.RUNNING, "epoch": 2, "attempt": 2, "owner_id": "A"}
    )
    index.put(restored, lease_ttl_s=TTL)
    lease = Lease(job="j-1", epoch=2, owner="A")
    assert index.start(lease, charged=True)
    assert index.beat(lease, TTL, None) is Beat.OK
    assert index.beat(lease.model_copy(update={"epoch": 3}), TTL, None) is Beat.FENCED
    found = look(index)
    assert found.attempt == 2
    [lost] = index.expire(index.leases())
    assert lost.state is JobState.QUEUED


# Endings


@pytest.mark.parametrize("end", sorted(TERMINAL))
def test_terminal_absorbs(index: JobIndex, end: JobState) -> None:
    lease = run(index)
    output = Output(model="models/m/versions/1")
    failure = Failure(code="X", message="m")
    final = Progress(step=9, total_steps=10, metrics={"fvu": 0.5})
    assert index.finish("j-1", 1, end, (output,), failure, final)
    before = look(index)
    assert before.progress == final
    assert [each.event.step for each in index.events("j-1", 0, 100)][-1] == 9
    assert (before.outputs, before.failure, before.owner_id) == ((output,), failure, "")
    for other in TERMINAL:
        assert not finish(index, other, epoch=2)
    assert index.request_cancel("j-1") == before
    assert index.beat(lease, TTL, None) is Beat.FENCED
    assert not index.unblock("j-1")
    assert index.leases() == []
    assert index.get("j-1") == before
    assert index.acquire("cpu", "B", TTL) is None
    assert index.unsettled() == []


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.BLOCKED, JobState.PAUSED])
@pytest.mark.parametrize("end", sorted(TERMINAL))
def test_cancel_of_a_job_nobody_runs_waits_for_its_result(
    index: JobIndex, state: JobState, end: JobState
) -> None:
    index.put(record(state=state))
    cancelling = index.request_cancel("j-1")
    assert cancelling is not None
    assert (cancelling.state, cancelling.owner_id) == (JobState.CANCELLING, "")
    assert index.request_cancel("j-1") == cancelling
    assert index.acquire("cpu", "A", TTL) is None
    assert index.leases() == []
    assert index.unsettled() == ["j-1"]
    assert finish(index, end)
    assert look(index).state is end
    assert not finish(index, JobState.CANCELLED)
    assert index.unsettled() == []
    assert index.counts() == {end: 1}


@pytest.mark.parametrize("started", [False, True])
def test_cancel_of_a_leased_job_is_told_by_the_beat(index: JobIndex, started: bool) -> None:
    index.put(record())
    lease = lease_of(index.acquire("cpu", "A", TTL), 1)
    if started:
        assert index.start(lease, charged=True)
    cancelling = index.request_cancel("j-1")
    assert cancelling is not None
    assert cancelling.state is JobState.CANCELLING
    assert index.start(lease, charged=True)
    assert index.beat(lease, TTL, None) is Beat.CANCEL
    assert look(index).state is JobState.CANCELLING
    assert finish(index, JobState.CANCELLED)
    assert look(index).state is JobState.CANCELLED
    assert index.unsettled() == []


@pytest.mark.parametrize("how", ["release", "expire"])
def test_a_cancelling_job_without_worker_waits_for_its_result(index: JobIndex, how: str) -> None:
    lease = run(index)
    index.request_cancel("j-1")
    if how == "release":
        assert index.release(lease, "drain")
    else:
        assert [r.state for r in index.expire(index.leases())] == [JobState.CANCELLING]
    found = look(index)
    assert (found.state, found.owner_id) == (JobState.CANCELLING, "")
    assert index.beat(lease, TTL, None) is Beat.FENCED
    assert index.leases() == []
    assert index.unsettled() == ["j-1"]
    assert index.runnable() == {}
    assert finish(index, JobState.CANCELLED)
    assert index.unsettled() == []


def test_a_worker_may_finish_as_cancelled_before_the_index_was_told(index: JobIndex) -> None:
    run(index)
    assert finish(index, JobState.CANCELLED)
    assert states_told(index)[-2:] == ["CANCELLING", "CANCELLED"]


def test_unblock(index: JobIndex) -> None:
    index.put(record(state=JobState.BLOCKED))
    assert index.acquire("cpu", "A", TTL) is None
    assert index.unblock("j-1")
    assert not index.unblock("j-1")
    assert index.acquire("cpu", "A", TTL) is not None
