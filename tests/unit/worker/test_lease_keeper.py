"""The lease keeper's answers to what index and store tell it."""

from __future__ import annotations

import threading

import pytest
from tests.fakes.jobs import submission
from tests.fakes.worker_bench import Bench, until

from saeserve.jobs.events import EventLog, EventTail
from saeserve.jobs.payloads import LogWritten, MetricsReported
from saeserve.jobs.record import Claim, Event, Lease
from saeserve.jobs.states import JobState
from saeserve.worker.event_relay import EventRelay
from saeserve.worker.lease_keeper import LeaseKeeper, held


def claimed(bench: Bench) -> tuple[Claim, EventRelay]:
    bench.submit()
    assert bench.index.acquire("cpu", "w", 60) is not None
    claim = bench.ledger.claim("j-1", "w", 0.0)
    path = bench.folder("j-1", claim.epoch) / "events.jsonl"
    return claim, EventRelay(path, submission(), claim.resume_step, bench.index, bench.metrics)


@pytest.fixture
def keeper(bench: Bench) -> LeaseKeeper:
    claim, relay = claimed(bench)
    return LeaseKeeper(claim, bench.ledger, bench.index, relay, 60)


def told(keeper: LeaseKeeper) -> tuple[bool, bool]:
    """(lost, cancelled) after a beat."""
    keeper.tick()
    return keeper.lost.is_set(), keeper.cancelled.is_set()


def test_the_first_beat_starts_the_attempt(bench: Bench, keeper: LeaseKeeper) -> None:
    assert told(keeper) == (False, False)
    record = bench.index.get("j-1")
    assert record is not None
    assert (record.state, record.epoch, record.attempt) == (JobState.RUNNING, 1, 1)


def test_the_index_tells_of_a_cancel(bench: Bench, keeper: LeaseKeeper) -> None:
    told(keeper)
    bench.index.request_cancel("j-1")
    assert told(keeper) == (False, True)


def test_the_index_tells_of_another_holder(bench: Bench, keeper: LeaseKeeper) -> None:
    told(keeper)
    bench.index.release(Lease(job="j-1", epoch=1, owner="w"), "")
    assert bench.index.acquire("cpu", "other", 60) is not None
    assert told(keeper) == (True, False)


def test_without_the_index_the_store_decides(bench: Bench, keeper: LeaseKeeper) -> None:
    bench.index.down = True
    assert told(keeper) == (False, False)
    bench.ledger.request_cancel("j-1")
    assert told(keeper) == (False, True)
    bench.ledger.claim("j-1", "other", 0.0)
    assert told(keeper) == (True, True)


def test_an_index_that_forgot_the_job_is_told_all_events_again(
    bench: Bench, keeper: LeaseKeeper
) -> None:
    log = EventLog(bench.folder("j-1", 1) / "events.jsonl", 1)
    log.append(LogWritten(message="one"))
    told(keeper)
    bench.index.forget()
    assert told(keeper) == (False, False)
    bench.index.put(bench.ledger.record("j-1"))
    log.append(LogWritten(message="two"))
    assert told(keeper) == (False, False)
    assert messages(bench) == ["one", "two"]
    log.close()


def test_events_that_a_restarted_index_lost_are_handed_over_again(
    bench: Bench, keeper: LeaseKeeper
) -> None:
    told(keeper)
    with EventLog(bench.folder("j-1", 1) / "events.jsonl", 1) as log:
        for word in ("one", "two", "three"):
            log.append(LogWritten(message=word))
        told(keeper)
        bench.index.lose_events("j-1", 2)
        log.append(LogWritten(message="four"))
        told(keeper)
        told(keeper)
    assert messages(bench) == ["one", "two", "three", "four"]


def test_a_start_that_the_index_missed_is_made_up_for(bench: Bench, keeper: LeaseKeeper) -> None:
    bench.index.down = True
    told(keeper)
    bench.index.down = False
    assert told(keeper) == (False, False)
    record = bench.index.get("j-1")
    assert record is not None
    assert record.state is JobState.RUNNING


def test_events_of_an_outage_arrive_in_order_once(bench: Bench, keeper: LeaseKeeper) -> None:
    told(keeper)
    bench.index.down = True
    with EventLog(bench.folder("j-1", 1) / "events.jsonl", 1) as log:
        for word in ("one", "two"):
            log.append(LogWritten(message=word))
            told(keeper)
    bench.index.down = False
    told(keeper)
    told(keeper)
    assert messages(bench) == ["one", "two"]


def test_an_unreachable_store_and_index_stop_the_attempt(
    bench: Bench, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(job: str) -> int:
        raise OSError("stale file handle")

    bench.index.down = True
    monkeypatch.setattr(bench.ledger, "highest_epoch", broken)
    assert told(keeper) == (True, False)


def test_the_thread_beats_and_forwards_the_last_events(bench: Bench) -> None:
    claim, relay = claimed(bench)
    with (
        LeaseKeeper(claim, bench.ledger, bench.index, relay, 0.3) as keeper,
        EventLog(bench.folder("j-1", 1) / "events.jsonl", 1) as log,
    ):
        log.append(MetricsReported(metrics={"loss": 2.0}, total_steps=9), step=4)
        until(lambda: progress_step(bench) == 4)
        log.append(LogWritten(message="last"))
    assert messages(bench) == ["last"]
    assert not keeper.lost.is_set()


def test_a_failing_beat_does_not_end_the_thread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, relay = claimed(bench)
    with LeaseKeeper(claim, bench.ledger, bench.index, relay, 0.3) as keeper:
        with monkeypatch.context() as patch:
            failed: list[int] = []

            def broken(*_: object) -> None:
                failed.append(1)
                raise ValueError("a bug")

            patch.setattr(bench.index, "beat", broken)
            until(lambda: len(failed) > 1)
        bench.index.request_cancel("j-1")
        until(keeper.cancelled.is_set)


def test_a_store_that_hangs_delays_no_beat(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, relay = claimed(bench)
    stuck, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        stuck.set()
        go_on.wait(60)

    monkeypatch.setattr(relay, "forward", hang)
    keeper = LeaseKeeper(claim, bench.ledger, bench.index, relay, 0.3)
    try:
        with keeper:
            until(stuck.is_set)
            before = beats(bench)
            until(lambda: beats(bench) > before + 3)
            go_on.set()
    finally:
        go_on.set()


def test_an_index_that_came_back_waits_for_no_store(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewinding is left to the next forward, which may hang."""
    _, relay = claimed(bench)
    held_up, go_on = threading.Event(), threading.Event()

    def read(_: EventTail) -> list[Event]:
        held_up.set()
        go_on.wait(60)
        return []

    monkeypatch.setattr(EventTail, "read", read)
    thread = threading.Thread(target=relay.forward)
    thread.start()
    try:
        until(held_up.is_set)
        relay.rewind()
    finally:
        go_on.set()
        thread.join()


def test_a_lease_is_held_while_its_attempt_is_claimed(bench: Bench) -> None:
    bench.submit()
    assert bench.index.acquire("cpu", "w", 0.2) is not None
    first = beats(bench)
    with held(bench.index, Lease(job="j-1", epoch=0, owner="w"), 0.2):
        until(lambda: beats(bench) > first)


def beats(bench: Bench) -> int:
    record = bench.index.get("j-1")
    assert record is not None
    return record.beats


def progress_step(bench: Bench) -> int:
    record = bench.index.get("j-1")
    assert record is not None
    return record.progress.step


def messages(bench: Bench) -> list[str]:
    events = [entry.event for entry in bench.index.events("j-1", 0, 100)]
    return [event.data["message"] for event in events if event.type == "log"]
