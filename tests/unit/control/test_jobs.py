"""Looking, listing, cancelling and watching."""

from __future__ import annotations

import pytest
from tests.fakes.control import TRAIN, Bench

from saeserve.control.converters.jobs import etag
from saeserve.control.converters.tokens import Cursor
from saeserve.control.handlers.catalog import LIVE
from saeserve.control.handlers.usage import LiveUse
from saeserve.errors import FailedPrecondition, InvalidInput, NotFound
from saeserve.jobs.errors import IndexUnavailable
from saeserve.jobs.payloads import MetricsReported
from saeserve.jobs.record import Event, JobFilter, Progress
from saeserve.jobs.states import JobState
from saeserve.registry.dataset import DatasetState

ABSENT = "j-00000000000000000000"


def event(op: int, epoch: int = 1) -> Event:
    return Event(epoch=epoch, op=op, time=1.0, step=op, payload=MetricsReported())


def test_a_job_is_found_with_and_without_the_index(bench: Bench) -> None:
    bench.ready()
    record = bench.train()
    catalog = bench.parts.jobs.catalog
    assert catalog.get(record.id) == bench.index.get(record.id)
    bench.index.down = True
    assert catalog.get(record.id).state is JobState.QUEUED
    bench.index.down = False
    bench.index.forget()
    assert catalog.get(record.id).submission == record.submission


@pytest.mark.parametrize("job", ["", "j-1", "../../etc", "J-00000000000000000000"])
def test_what_is_no_id_reaches_no_path(bench: Bench, job: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        bench.parts.jobs.catalog.get(job)
    assert caught.value.field == "id"


def test_a_job_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.parts.jobs.catalog.get(ABSENT)


@pytest.mark.parametrize("down", [False, True])
def test_pages_hold_every_match_once_newest_first(bench: Bench, down: bool) -> None:
    bench.ready()
    jobs = [bench.submit({"train": TRAIN | {"seed": i}}, owner="ab"[i % 2]).id for i in range(7)]
    bench.index.down = down
    seen, after = list[str](), ""
    while True:
        records, after = bench.parts.jobs.catalog.page(JobFilter(owner="a"), 2, after)
        assert len(records) <= 2
        seen += [record.id for record in records]
        if not after:
            break
    assert seen == sorted(jobs[::2], reverse=True)


def test_paging_goes_on_when_the_index_is_lost_between_pages(bench: Bench) -> None:
    bench.ready()
    jobs = sorted((bench.train(seed=i).id for i in range(4)), reverse=True)
    first, after = bench.parts.jobs.catalog.page(JobFilter(), 2, "")
    bench.index.down = True
    rest, end = bench.parts.jobs.catalog.page(JobFilter(), 2, after)
    assert [record.id for record in (*first, *rest)] == jobs
    assert end == ""


def test_an_emptied_index_does_not_answer_that_there_are_no_jobs(bench: Bench) -> None:
    """Until the reconciler has filled it again, the store tells."""
    bench.ready()
    bench.index.set_generation("before")
    job = bench.train().id
    bench.index.forget()
    found, _ = bench.parts.jobs.catalog.page(JobFilter(), 10, "")
    assert [record.id for record in found] == [job]
    bench.index.set_generation("after")
    assert bench.parts.jobs.catalog.page(JobFilter(), 10, "") == ([], "")


def test_cancelling_what_nobody_runs_ends_it(bench: Bench) -> None:
    bench.ready()
    job = bench.train().id
    cancel = bench.parts.jobs.canceller.cancel
    assert cancel(job).state is JobState.CANCELLED
    assert bench.ledger.cancel_requested(job)
    assert bench.ledger.record(job).state is JobState.CANCELLED
    assert cancel(job).state is JobState.CANCELLED


def test_cancelling_what_runs_is_a_wish(bench: Bench) -> None:
    bench.ready()
    job = bench.train().id
    bench.start(job)
    assert bench.parts.jobs.canceller.cancel(job).state is JobState.CANCELLING
    assert bench.ledger.cancel_requested(job)
    assert bench.ledger.result(job) is None


def test_a_wish_is_kept_while_the_index_is_away(bench: Bench) -> None:
    bench.ready()
    job = bench.train().id
    bench.index.down = True
    bench.parts.jobs.canceller.cancel(job)
    assert bench.ledger.cancel_requested(job)


def test_what_has_ended_otherwise_is_not_cancelled(bench: Bench) -> None:
    bench.ready()
    job = bench.train().id
    bench.start(job)
    bench.end(job, JobState.SUCCEEDED)
    with pytest.raises(FailedPrecondition) as caught:
        bench.parts.jobs.canceller.cancel(job)
    assert caught.value.code == "JOB_ENDED"
    assert not bench.ledger.cancel_requested(job)


def test_an_etag_guards_against_what_was_not_seen(bench: Bench) -> None:
    bench.ready()
    job = bench.train().id
    seen = etag(bench.parts.jobs.catalog.get(job))
    lease = bench.start(job)
    with pytest.raises(FailedPrecondition) as caught:
        bench.parts.jobs.canceller.cancel(job, seen)
    assert caught.value.code == "ETAG_MISMATCH"
    assert not bench.ledger.cancel_requested(job)
    running = etag(bench.parts.jobs.catalog.get(job))
    bench.index.beat(lease, 30.0, Progress(step=7))
    assert bench.parts.jobs.canceller.cancel(job, running).state is JobState.CANCELLING


def test_cancelling_a_harvest_gives_its_data_set_up(bench: Bench) -> None:
    spec = {
        "dataset": "acts",
        "language_model": {"path": "far:smol"},
        "texts": [{"path": "far:a.txt"}],
        "sites": [{"layer": 3}],
    }
    job = bench.submit({"harvest": spec}).id
    bench.parts.jobs.canceller.cancel(job)
    found = bench.datasets.get("acts")
    assert found.state is DatasetState.FAILED
    assert job in found.failure


def test_a_watch_brings_everything_once_and_ends(bench: Bench) -> None:
    bench.ready()
    job = bench.train().id
    watcher = bench.parts.jobs.watcher
    first = watcher.look(job, Cursor())
    assert [each.event.data["state"] for each in first.events] == ["QUEUED"]
    assert first.ended is None
    bench.start(job)
    for op in range(3):
        bench.index.append(job, event(op))
    second = watcher.look(job, first.cursor)
    assert [each.event.type for each in second.events][-3:] == ["metrics"] * 3
    assert watcher.look(job, second.events[-2].cursor).events == second.events[-1:]
    bench.end(job, JobState.SUCCEEDED)
    last = watcher.look(job, second.cursor)
    assert last.events[-1].event.data["state"] == "SUCCEEDED"
    assert last.ended is not None
    assert last.ended.state is JobState.SUCCEEDED
    assert second.lost is None


def test_a_watch_tells_what_was_trimmed(bench: Bench) -> None:
    bench.ready()
    job = bench.train().id
    bench.start(job)
    for op in range(10_050):
        bench.index.append(job, event(op))
    news = bench.parts.jobs.watcher.look(job, Cursor("", 1))
    assert news.lost is not None
    assert news.lost == news.events[0].cursor.sequence - 2
    assert news.lost > 0


def test_a_watch_begins_again_after_a_rebuild(bench: Bench) -> None:
    bench.ready()
    bench.index.set_generation("one")
    record = bench.train()
    watcher = bench.parts.jobs.watcher
    cursor = watcher.look(record.id, Cursor()).cursor
    assert cursor == Cursor("one", 1)
    bench.index.forget()
    bench.index.put(record)
    bench.index.set_generation("two")
    news = watcher.look(record.id, cursor)
    assert news.lost == 0
    assert [each.cursor for each in news.events] == [Cursor("two", 1)]
    assert watcher.look(record.id, news.cursor).lost is None


def test_a_watch_needs_the_index(bench: Bench) -> None:
    bench.ready()
    job = bench.train().id
    bench.index.down = True
    for call in (
        lambda: bench.parts.jobs.watcher.job(job),
        lambda: bench.parts.jobs.watcher.look(job, Cursor()),
    ):
        with pytest.raises(IndexUnavailable):
            call()


def test_live_jobs_hold_what_they_use(bench: Bench) -> None:
    bench.ready()
    bench.publish()
    train = bench.train()
    evaluate = bench.submit({"evaluate": {"model": "sae", "dataset": "acts"}})
    use = LiveUse(bench.parts.jobs.catalog, bench.models)
    assert sorted(use.of_dataset("acts")) == sorted([train.id, evaluate.id])
    assert use.of_model("models/sae/versions/1") == [evaluate.id]
    with pytest.raises(FailedPrecondition, match=evaluate.id):
        bench.parts.models.delete("sae@1", force=False)
    with pytest.raises(FailedPrecondition, match=train.id):
        bench.parts.datasets.delete("acts", force=False)
    for job in (train.id, evaluate.id):
        bench.parts.jobs.canceller.cancel(job)
    bench.parts.models.delete("sae@1", force=False)
    bench.parts.datasets.delete("acts", force=False)
    assert bench.datasets.names() == []


def test_force_deletes_under_a_live_job(bench: Bench) -> None:
    bench.ready()
    bench.train()
    bench.parts.datasets.delete("acts", force=True)
    assert bench.datasets.names() == []


def test_live_is_everything_that_has_not_ended() -> None:
    ended = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
    assert set(JobState) - ended == LIVE
