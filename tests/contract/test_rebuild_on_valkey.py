"""A real Valkey that loses everything, and a reconciler that brings it back from the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.jobs import TTL, CountingDoorbell, event, lease_of, look, submission
from tests.fakes.valkey import Valkey

from saeserve.jobs.events import EventLog
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.payloads import MetricsReported
from saeserve.jobs.ports import IndexUnavailable
from saeserve.jobs.reconciler import Reconciler
from saeserve.jobs.record import Beat, JobFilter, JobRecord, Lease, Output, Result
from saeserve.jobs.redis_index import RedisIndex
from saeserve.jobs.states import JobState
from saeserve.platform.store import ArtifactStore


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(ArtifactStore(tmp_path / "store"))


@pytest.fixture
def redis_index(valkey: Valkey) -> Iterator[RedisIndex]:
    with valkey.client() as client:
        yield RedisIndex(client)


@pytest.fixture
def reconciler(ledger: Ledger, redis_index: RedisIndex) -> Reconciler:
    return Reconciler(ledger, redis_index, CountingDoorbell(), publish=lambda _: None)


def populate(ledger: Ledger, index: RedisIndex) -> Lease:
    """One job finished, one drained, one running with events, one that waits for it."""
    for job in ("j-1", "j-2", "j-3"):
        index.put(JobRecord(submission=ledger.submit(submission(job)), state=JobState.QUEUED))
    waiting = ledger.submit(submission("j-4", waits_for=("j-3",)))
    index.put(JobRecord(submission=waiting, state=JobState.BLOCKED))
    done, drained, running = (_begin(ledger, index, f"w{n}") for n in range(3))
    output = Output(model="models/m/versions/1", metrics={"fvu": 0.2})
    won = ledger.finish(
        Result(job=done.job, epoch=1, state=JobState.SUCCEEDED, outputs=(output,), time=5.0)
    )
    index.finish(won.job, won.epoch, won.state, won.outputs, won.failure)
    ledger.mark_released(drained)
    index.release(drained, "drain")
    with EventLog(ledger.store.path("jobs/j-3/attempts/1/events.jsonl"), 1) as log:
        for step in range(5):
            index.append("j-3", log.append(MetricsReported(metrics={"loss": 1.0}), step=step))
    return running


def _begin(ledger: Ledger, index: RedisIndex, owner: str) -> Lease:
    taken = index.acquire("cpu", owner, TTL)
    assert taken is not None
    claim = ledger.claim(taken.id, owner, 1.0)
    lease = lease_of(taken, claim.epoch)
    assert index.start(lease, claim.charged)
    return lease


def essence(index: RedisIndex) -> list[JobRecord]:
    """All records without what only the index keeps."""
    gone = {"started": 0.0, "ended": 0.0, "beats": 0, "revision": 0, "reason": ""}
    return [r.model_copy(update=gone) for r in index.page(JobFilter(), 99, "")[0]]


def test_all_comes_back_and_the_running_attempt_goes_on(
    valkey: Valkey, ledger: Ledger, redis_index: RedisIndex, reconciler: Reconciler
) -> None:
    running = populate(ledger, redis_index)
    assert reconciler.tick().rebuilt
    before = essence(redis_index)
    states = {r.id: r.state for r in before}
    assert states == {
        "j-1": JobState.SUCCEEDED,
        "j-2": JobState.QUEUED,
        "j-3": JobState.RUNNING,
        "j-4": JobState.BLOCKED,
    }
    valkey.flush()
    assert redis_index.beat(running, TTL, None) is Beat.UNKNOWN
    assert redis_index.ids() == []

    report = reconciler.tick()
    assert (report.rebuilt, report.indexed, report.rung) == (True, 4, 0)
    assert essence(redis_index) == before
    assert redis_index.beat(running, TTL, None) is Beat.OK
    metrics = [e.event for e in redis_index.events("j-3", 0, 99) if e.event.type == "metrics"]
    assert metrics == ledger.events("j-3")
    assert not redis_index.append("j-3", metrics[-1])
    assert redis_index.append("j-3", event(5))
    assert redis_index.finish("j-3", 1, JobState.SUCCEEDED, (), None)
    assert look(redis_index, "j-2").attempt == 1
    assert _begin(ledger, redis_index, "w9").epoch == 2


def test_a_server_that_restarts_empty_is_told_and_filled(tmp_path: Path, ledger: Ledger) -> None:
    folder = tmp_path / "valkey"
    folder.mkdir()
    with Valkey(folder) as server, server.client() as client:
        index = RedisIndex(client)
        reconciler = Reconciler(ledger, index, CountingDoorbell(), publish=lambda _: None)
        reconciler.tick()
        ledger.submit(submission("j-1"))
        server.stop()
        with pytest.raises(IndexUnavailable):
            reconciler.tick()
        server.start()
        report = reconciler.tick()
        assert (report.rebuilt, report.indexed, report.rung) == (True, 1, 1)
        assert look(index).state is JobState.QUEUED
