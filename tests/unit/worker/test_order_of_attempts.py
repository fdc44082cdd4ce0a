"""What a watcher sees of a job's attempts: one after the other, whatever was not handed over."""

from __future__ import annotations

import fcntl
import threading
from functools import partial

import pytest
from tests.fakes.jobs import submission
from tests.fakes.worker_bench import Bench

from saeserve.jobs.errors import IndexUnavailable
from saeserve.jobs.events import EventLog
from saeserve.jobs.payloads import LogWritten, StateChanged
from saeserve.jobs.record import Claim, Event
from saeserve.worker.event_relay import EventRelay
from saeserve.worker.lease_keeper import LeaseKeeper
from saeserve.worker.settlement import Ending

BOTH = [
    (0, "QUEUED"),
    (0, "STARTING"),
    (1, "RUNNING"),
    (1, "one"),
    (1, "QUEUED"),
    (1, "STARTING"),
    (1, "two"),
    (1, "three"),
    (2, "RUNNING"),
    (2, "four"),
]


def word(event: Event) -> str:
    match event.payload:
        case StateChanged(state=state):
            return state.value
        case LogWritten(message=message):
            return message
        case _:
            return event.type


def watched(bench: Bench, job: str = "j-1") -> list[tuple[int, str]]:
    """Attempt and word of each event, as a watch sends them."""
    return [(each.event.epoch, word(each.event)) for each in bench.index.events(job, 0, 1000)]


def claim_of(bench: Bench) -> Claim:
    assert bench.index.acquire("cpu", "w", 60) is not None
    return bench.ledger.claim("j-1", "w", 0.0)


def begun(bench: Bench, claim: Claim) -> tuple[EventRelay, LeaseKeeper]:
    """What a supervisor makes for the attempt."""
    path = bench.folder("j-1", claim.epoch) / "events.jsonl"
    earlier = partial(bench.ledger.earlier_history, claim)
    relay = EventRelay(path, submission(), 0, bench.index, bench.metrics, earlier)
    relay.hand_earlier()
    return relay, LeaseKeeper(claim, bench.ledger, bench.index, relay, 60)


def write(bench: Bench, epoch: int, *words: str) -> None:
    with EventLog(bench.folder("j-1", epoch) / "events.jsonl", epoch) as log:
        for each in words:
            log.append(LogWritten(message=each))


@pytest.fixture
def killed(bench: Bench) -> Bench:
    """Its first attempt's worker is gone with two of its three events not handed over."""
    bench.submit()
    begun(bench, claim_of(bench))[1].tick()
    write(bench, 1, "one")
    bench.index.append("j-1", bench.ledger.events("j-1")[0])
    write(bench, 1, "two", "three")
    bench.index.expire(bench.index.leases())
    return bench


def test_what_a_killed_worker_had_not_handed_over_comes_before_the_next_attempt(
    killed: Bench,
) -> None:
    _, keeper = begun(killed, claim_of(killed))
    keeper.tick()
    write(killed, 2, "four")
    keeper.tick()
    assert watched(killed) == BOTH


def test_an_index_that_is_away_at_the_claim_gets_them_in_the_same_order(killed: Bench) -> None:
    claim = claim_of(killed)
    killed.index.down = True
    _, keeper = begun(killed, claim)
    keeper.tick()
    write(killed, 2, "four")
    keeper.tick()
    killed.index.down = False
    for _ in range(3):
        keeper.tick()
    assert watched(killed) == BOTH


def test_an_index_that_answers_again_to_a_relay_first_still_gets_running_first(
    killed: Bench,
) -> None:
    """The thread that hands events over may come before the one that beats."""
    relay, keeper = begun(killed, claim_of(killed))
    write(killed, 2, "four")
    relay.forward()
    keeper.tick()
    assert watched(killed) == BOTH


def test_one_that_fails_in_the_middle_of_them_gets_the_rest_first(
    killed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = killed.index.append
    left = [1]

    def failing(job: str, event: Event, after: int = -1) -> bool:
        if not left:
            raise IndexUnavailable("for a while")
        left.pop()
        return append(job, event, after)

    monkeypatch.setattr(killed.index, "append", failing)
    _, keeper = begun(killed, claim_of(killed))
    write(killed, 2, "four")
    keeper.tick()
    assert watched(killed) == BOTH[:7]
    monkeypatch.undo()
    for _ in range(3):
        keeper.tick()
    assert watched(killed) == BOTH


def test_only_what_the_index_lacks_is_handed_over(
    killed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call for each event of a long job would hold its next attempt up."""
    append, given = killed.index.append, list[Event]()

    def counting(job: str, event: Event, after: int = -1) -> bool:
        given.append(event)
        return append(job, event, after)

    monkeypatch.setattr(killed.index, "append", counting)
    begun(killed, claim_of(killed))
    assert [word(each) for each in given] == ["two", "three"]


def test_an_event_that_is_being_written_at_the_claim_is_waited_for(killed: Bench) -> None:
    """Its process looked at the fence before the claim, and writes after it."""
    path = killed.folder("j-1", 1) / "events.jsonl"
    writing = EventLog(path, 1)
    found: list[list[str]] = []
    with path.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        claim = claim_of(killed)
        reading = threading.Thread(
            target=lambda: found.append(
                [word(event) for event in killed.ledger.earlier_history(claim)]
            )
        )
        reading.start()
        reading.join(0.1)  # which has time to read what is there
        event = Event(epoch=1, op=3, time=0.0, step=0, payload=LogWritten(message="last"))
        with path.open("ab") as file:
            file.write(event.model_dump_json().encode() + b"\n")
        fcntl.flock(lock, fcntl.LOCK_UN)
    reading.join()
    writing.close()
    assert found == [["one", "two", "three", "last"]]


def test_a_supervisor_hands_them_over_before_the_attempt_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise IndexUnavailable("for a while")

    bench.submit()
    bench.part = "crash"
    with monkeypatch.context() as patch:
        patch.setattr(bench.index, "append", away)
        assert bench.run() is Ending.RETRIED
    bench.part = "report"
    assert bench.run() is Ending.SUCCEEDED
    run = [(1, "RUNNING"), (1, "QUEUED"), (1, "STARTING"), (1, "metrics")]
    next_run = [(2, "RUNNING"), (2, "metrics"), (2, "metrics"), (2, "SUCCEEDED")]
    assert watched(bench)[2:] == [*run, *next_run]
