"""What every job index must do about records, listings, acquiring and events."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.fakes.jobs import TTL, event, finish, lease_of, look, record, run

from saeserve.jobs.errors import EventsMissing
from saeserve.jobs.ports import JobIndex
from saeserve.jobs.record import Beat, Failure, JobFilter, JobRecord, Lease, Output, Progress
from saeserve.jobs.states import JobState

STREAM = 100


# Records


def test_a_record_comes_back_as_it_was_put(index: JobIndex) -> None:
    put = JobRecord(
        submission=record(
            labels={"a": "b"}, waits_for=("j-0",), owner="Zoë", priority=-3
        ).submission,
        state=JobState.SUCCEEDED,
        reason="",
        attempt=2,
        epoch=3,
        progress=Progress(step=9, total_steps=10, metrics={"loss": 0.5}),
        outputs=(Output(model="models/m/versions/1"), Output(evaluation={"bins": [], "x": {}})),
        failure=Failure(code="X", message="it's “odd”\n"),
        started=12.5,
        ended=13.25,
        revision=4,
    )
    assert index.put(put)
    assert index.get("j-1") == put


def test_not_a_number_survives(index: JobIndex) -> None:
    lease = run(index)
    index.beat(lease, TTL, Progress(step=3, metrics={"loss": float("nan")}))
    found = look(index)
    assert str(found.progress.metrics["loss"]) == "nan"


def test_an_unknown_job_is_none_everywhere(index: JobIndex) -> None:
    lease = Lease(job="j-9", epoch=1, owner="A")
    assert index.get("j-9") is None
    assert index.request_cancel("j-9") is None
    assert index.beat(lease, TTL, None) is Beat.UNKNOWN
    assert not index.start(lease, charged=True)
    assert not index.release(lease, "x")
    assert not index.finish("j-9", 1, JobState.FAILED, (), None)
    assert not index.unblock("j-9")
    assert not index.append("j-9", event(0))
    assert index.events("j-9", 0, 10) == []
    assert index.ids() == []


def test_put_again_changes_nothing(index: JobIndex) -> None:
    assert index.put(record(priority=1))
    assert index.acquire("cpu", "A", TTL) is not None
    assert not index.put(record(priority=2))
    found = look(index)
    assert (found.state, found.submission.priority) == (JobState.STARTING, 1)


# Listing


def test_pages_are_newest_first_and_end(index: JobIndex) -> None:
    for number in range(5):
        index.put(record(f"j-{number}"))
    first, token = index.page(JobFilter(), 2, "")
    second, token = index.page(JobFilter(), 2, token)
    third, end = index.page(JobFilter(), 2, token)
    assert [r.id for r in [*first, *second, *third]] == ["j-4", "j-3", "j-2", "j-1", "j-0"]
    assert end == ""
    assert index.ids() == ["j-4", "j-3", "j-2", "j-1", "j-0"]


def test_a_full_last_page_ends(index: JobIndex) -> None:
    index.put(record("j-0"))
    index.put(record("j-1"))
    page, token = index.page(JobFilter(), 2, "")
    assert (len(page), token) == (2, "")


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (JobFilter(states=frozenset({JobState.BLOCKED})), ["j-3"]),
        (JobFilter(states=frozenset({JobState.BLOCKED, JobState.QUEUED}), owner="me"), ["j-2"]),
        (JobFilter(kinds=frozenset({"harvest"})), ["j-1"]),
        (JobFilter(labels={"team": "x"}), ["j-2", "j-0"]),
        (JobFilter(labels={"team": "x", "run": "1"}), ["j-0"]),
        (JobFilter(owner="nobody"), []),
    ],
)
def test_filters_hold_together(index: JobIndex, wanted: JobFilter, ids: list[str]) -> None:
    index.put(record("j-0", labels={"team": "x", "run": "1"}))
    index.put(record("j-1", kind="harvest"))
    index.put(record("j-2", owner="me", labels={"team": "x"}))
    index.put(record("j-3", JobState.BLOCKED))
    assert [r.id for r in index.page(wanted, 10, "")[0]] == ids


def test_counts_follow_the_states(index: JobIndex) -> None:
    index.put(record("j-0", JobState.BLOCKED))
    index.put(record("j-1", resource_class="gpu"))
    index.put(record("j-2"))
    index.acquire("cpu", "A", TTL)
    assert index.counts() == {JobState.BLOCKED: 1, JobState.QUEUED: 1, JobState.STARTING: 1}
    wanted = (JobState.QUEUED, JobState.STARTING, JobState.FAILED)
    assert index.tally(wanted) == {(JobState.QUEUED, "gpu"): 1, (JobState.STARTING, "cpu"): 1}
    assert index.runnable() == {"gpu": 1}


# Acquiring


def test_acquire_takes_the_class_asked_for(index: JobIndex) -> None:
    index.put(record("j-1", resource_class="gpu"))
    assert index.acquire("cpu", "A", TTL) is None
    taken = index.acquire("gpu", "A", TTL)
    assert taken is not None
    assert (taken.id, taken.state, taken.owner_id) == ("j-1", JobState.STARTING, "A")


def test_acquire_orders_by_priority_then_share_then_age(index: JobIndex) -> None:
    for number in range(4):
        index.put(record(f"j-{number}", owner="busy"))
    index.put(record("j-4", owner="other"))
    index.put(record("j-5", owner="other"))
    index.put(record("j-6", owner="busy", priority=5))
    order = [lease_of(index.acquire("cpu", f"w{n}", TTL)).job for n in range(7)]
    # 6 by priority; then `other` has none running; then one each, so by age; then again by share.
    assert order == ["j-6", "j-4", "j-0", "j-5", "j-1", "j-2", "j-3"]


def test_a_finished_job_no_longer_counts_against_its_owner(index: JobIndex) -> None:
    index.put(record("j-0", owner="a"))
    index.acquire("cpu", "w0", TTL)
    finish(index, JobState.SUCCEEDED, "j-0")
    index.put(record("j-1", owner="a"))
    index.put(record("j-2", owner="b"))
    assert lease_of(index.acquire("cpu", "w1", TTL)).job == "j-1"


def test_the_same_owner_gets_the_same_job_until_it_started(index: JobIndex) -> None:
    index.put(record("j-1"))
    index.put(record("j-2"))
    first = index.acquire("cpu", "A", TTL)
    again = index.acquire("cpu", "A", TTL)
    assert lease_of(first).job == lease_of(again).job == "j-1"
    index.start(lease_of(first, 1), charged=True)
    assert lease_of(index.acquire("cpu", "A", TTL)).job == "j-2"


def test_many_owners_at_once_get_each_job_once(index: JobIndex) -> None:
    for number in range(10):
        index.put(record(f"j-{number}"))
    gate = threading.Barrier(8)

    def take(worker: int) -> list[str]:
        gate.wait()
        taken: list[str] = []
        for turn in range(3):
            found = index.acquire("cpu", f"w{worker}-{turn}", TTL)
            taken += [found.id] if found else []
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [job for jobs in pool.map(take, range(8)) for job in jobs]
    assert sorted(taken) == [f"j-{number}" for number in range(10)]


# Events


def test_events_are_numbered_with_the_moves_between_them(index: JobIndex) -> None:
    run(index)
    for op in range(3):
        assert index.append("j-1", event(op))
    finish(index, JobState.SUCCEEDED)
    events = index.events("j-1", 0, 100)
    assert [e.sequence for e in events] == list(range(1, 8))
    assert [e.event.type for e in events] == [
        *["state_changed"] * 3,
        *["metrics"] * 3,
        "state_changed",
    ]
    assert events[3].event == event(0)
    assert index.events("j-1", 3, 2) == events[3:5]
    assert index.events("j-1", 7, 10) == []


def test_appending_again_is_harmless(index: JobIndex) -> None:
    index.put(record())
    assert index.append("j-1", event(0))
    assert index.append("j-1", event(1))
    assert not index.append("j-1", event(1))
    assert not index.append("j-1", event(0))
    assert index.append("j-1", event(0, epoch=2))
    ops = [(e.event.epoch, e.event.op) for e in index.events("j-1", 1, 10)]
    assert ops == [(1, 0), (1, 1), (2, 0)]


def test_a_trimmed_stream_tells_a_gap(index: JobIndex) -> None:
    index.put(record())
    for op in range(3 * STREAM):
        index.append("j-1", event(op))
    kept = index.events("j-1", 5, 1000)
    assert kept[0].sequence > 6
    assert kept[-1].sequence == 3 * STREAM + 1
    assert [e.sequence for e in kept] == list(range(kept[0].sequence, 3 * STREAM + 2))


def test_a_restored_history_is_not_appended_twice(index: JobIndex) -> None:
    history = [event(0), event(1), event(0, epoch=2)]
    index.put(record(), history)
    assert not index.append("j-1", event(1))
    assert not index.append("j-1", event(0, epoch=2))
    assert index.append("j-1", event(1, epoch=2))
    kept = [e.event for e in index.events("j-1", 0, 10) if e.event.type == "metrics"]
    assert kept == [*history, event(1, epoch=2)]


def test_what_the_index_was_told_is_known(index: JobIndex) -> None:
    assert index.told("j-1") == {}
    index.put(record(), [event(0), event(1)])
    index.append("j-1", event(4, epoch=2))
    assert index.told("j-1") == {1: 1, 2: 4}


def test_what_the_worker_wrote_is_numbered_beside_what_the_job_wrote(index: JobIndex) -> None:
    index.put(record(), [event(0), event(-2), event(1)])
    assert not index.append("j-1", event(-2))
    assert index.append("j-1", event(-3))
    assert not index.append("j-1", event(-3))
    assert index.append("j-1", event(2), after=1)
    assert index.append("j-1", event(-2, epoch=2))
    assert index.told("j-1") == {1: 2}
    kept = [e.event.op for e in index.events("j-1", 0, 10) if e.event.type == "metrics"]
    assert kept == [0, -2, 1, -3, 2, -2]


def test_an_event_whose_predecessor_was_lost_is_refused(index: JobIndex) -> None:
    index.put(record())
    assert index.append("j-1", event(0))
    assert index.append("j-1", event(2), after=0)  # op 1 was damaged in the log
    with pytest.raises(EventsMissing, match="event 3 of attempt 1 of job j-1"):
        index.append("j-1", event(4), after=3)
    assert not index.append("j-1", event(1), after=7)
    assert index.told("j-1") == {1: 2}
    assert not index.append("j-9", event(4), after=3)


def test_events_left_out_at_a_rebuild_show_as_a_gap(index: JobIndex) -> None:
    index.put(record("j-1", JobState.SUCCEEDED), left_out=7)
    assert [e.sequence for e in index.events("j-1", 0, 10)] == [8]
    index.put(record("j-2"), [event(op) for op in range(STREAM + 20)], left_out=3)
    assert index.events("j-2", 0, 1000)[0].sequence >= 3 + 20 + 1


def test_only_a_job_that_has_ended_is_removed(index: JobIndex) -> None:
    index.put(record("j-1"))
    index.put(record("j-2"))
    assert not index.remove("j-1")
    lease = run(index)
    assert not index.remove("j-1")
    assert finish(index, JobState.SUCCEEDED)
    assert index.remove("j-1")
    assert not index.remove("j-1")
    assert index.get("j-1") is None
    assert index.events("j-1", 0, 10) == []
    assert index.ids() == ["j-2"]
    assert index.beat(lease, TTL, None) is Beat.UNKNOWN
    assert index.counts() == {JobState.QUEUED: 1}
    found, _ = index.page(JobFilter(states=frozenset({JobState.SUCCEEDED})), 10, "")
    assert found == []
    assert index.put(record("j-1"))


# Leadership and generation


def test_one_leads(index: JobIndex) -> None:
    first = index.lead("x", "A")
    assert first.holder == "A"
    assert index.lead("x", "B", first).holder == "B"
    assert index.lead("x", "A").holder == "B"
    assert index.lead("y", "A").holder == "A"


def test_a_leader_that_was_heard_since_stays(index: JobIndex) -> None:
    first = index.lead("x", "A")
    second = index.lead("x", "A")
    assert second != first
    assert index.lead("x", "B", first) == second
    assert index.lead("x", "B", second).holder == "B"


def test_the_generation_stays_until_the_data_goes(index: JobIndex) -> None:
    assert index.generation() is None
    index.set_generation("g1")
    assert index.generation() == "g1"
