"""Watching a job that ended so long ago that the index keeps no events of it."""

from __future__ import annotations

import pytest
from tests.fakes.control import Bench

from saeserve.control.converters.tokens import Cursor, resume_cursor, resume_token
from saeserve.control.handlers.watch import News
from saeserve.jobs.events import EventLog
from saeserve.jobs.payloads import LogWritten, WarningRaised
from saeserve.jobs.states import JobState

EVENTS = 450


@pytest.fixture
def ended(bench: Bench) -> str:
    """A job that ended, with events in the store and none in the index."""
    bench.ready()
    job = bench.train().id
    bench.start(job)
    path = bench.store.path(f"{bench.ledger.attempt_key(job, 1)}/events.jsonl")
    with EventLog(path, 1) as log:
        for step in range(EVENTS):
            bench.index.append(job, log.append(LogWritten(), step=step))
    bench.end(job, JobState.SUCCEEDED)
    bench.index.set_generation("g")
    return job


def follow(bench: Bench, job: str, token: str = "") -> list[News]:
    """Every look of a watch that goes on by tokens alone, as after broken streams."""
    seen: list[News] = []
    while not (seen and seen[-1].ended):
        news = bench.parts.jobs.watcher.look(job, resume_cursor(token, job))
        seen.append(news)
        token = resume_token(job, news.cursor)
        assert len(seen) < 20
    return seen


def test_a_gap_then_all_that_the_store_has(bench: Bench, ended: str) -> None:
    last = bench.index.last_sequence(ended)
    assert last == EVENTS + 4
    bench.index.drop_events(ended)
    looks = follow(bench, ended)
    assert [look.lost for look in looks] == [last, None, None]
    steps = [each.event.step for look in looks for each in look.events]
    assert steps == list(range(EVENTS))
    assert looks[-1].ended is not None


def test_it_goes_on_after_any_event(bench: Bench, ended: str) -> None:
    bench.index.drop_events(ended)
    first = follow(bench, ended)[0]
    token = resume_token(ended, first.events[6].cursor)
    looks = follow(bench, ended, token)
    assert looks[0].lost is None
    assert looks[0].events[0].event.step == 7


def test_what_the_worker_wrote_is_among_what_the_store_has(bench: Bench, ended: str) -> None:
    folder = bench.store.path(bench.ledger.attempt_key(ended, 1))
    with EventLog(folder / "worker.jsonl", 1, by_worker=True) as log:
        log.append(WarningRaised(code="STALLING", message="nothing moves"))
    bench.index.drop_events(ended)
    seen = [each.event for look in follow(bench, ended) for each in look.events]
    assert len(seen) == EVENTS + 1
    assert "STALLING" in [each.data.get("code") for each in seen]


def test_who_has_seen_all_is_told_nothing_twice(bench: Bench, ended: str) -> None:
    before = follow(bench, ended)
    assert all(look.lost is None for look in before)
    bench.index.drop_events(ended)
    (look,) = follow(bench, ended, resume_token(ended, before[-1].cursor))
    assert (look.lost, list(look.events)) == (None, [])
    again = follow(bench, ended)
    (look,) = follow(bench, ended, resume_token(ended, again[-1].cursor))
    assert (look.lost, list(look.events)) == (None, [])


def test_who_has_seen_some_is_told_how_many_are_gone(bench: Bench, ended: str) -> None:
    bench.index.drop_events(ended)
    looks = follow(bench, ended, resume_token(ended, Cursor("g", 100)))
    assert looks[0].lost == EVENTS + 4 - 100
