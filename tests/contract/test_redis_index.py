"""What only one of the indexes can show: clocks, outages, and that both tell the same story."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.job_moves import MOVES, Move, play, whole
from tests.fakes.jobs import TTL, event, record, run
from tests.fakes.memory_index import MemoryIndex
from tests.fakes.valkey import Valkey, ask

from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.jobs.record import Beat, JobFilter
from saeserve.jobs.redis_index import RedisIndex
from saeserve.jobs.redis_scripts import Reach
from saeserve.jobs.states import JobState


@pytest.fixture
def redis_index(valkey: Valkey) -> Iterator[RedisIndex]:
    with valkey.client() as client:
        yield RedisIndex(client)


def test_leases_of_an_older_release_are_watched_too(
    redis_index: RedisIndex, valkey: Valkey
) -> None:
    """It kept the server's milliseconds in place of beats, and no duration."""
    lease = run(redis_index)
    with valkey.client() as client:
        ask(client, "ZADD", "saeserve:leases", "1764000000000", "j-1")
        ask(client, "HDEL", "saeserve:job:j-1", "beats", "lease_ttl")
    [held] = redis_index.leases()
    assert (held.job, held.ttl_s) == ("j-1", None)
    assert redis_index.beat(lease, TTL, None) is Beat.OK
    assert redis_index.expire([held]) == []
    assert [each.id for each in redis_index.expire(redis_index.leases())] == ["j-1"]


def test_events_of_an_ended_job_expire_and_their_number_stays(valkey: Valkey) -> None:
    with valkey.client() as client:
        index = RedisIndex(client, events_s=0.2)
        for job in ("j-1", "j-2"):
            run(index, job)
        index.finish("j-1", 1, JobState.SUCCEEDED, (), None)
        limit = time.monotonic() + 20
        while index.events("j-1", 0, 10):
            assert time.monotonic() < limit
            time.sleep(0.02)
        assert index.last_sequence("j-1") == 4
        assert ask(client, "PTTL", "saeserve:events:j-2") == -1
        # What comes late does not stay either.
        index.append("j-1", event(7))
        assert cast(int, ask(client, "PTTL", "saeserve:events:j-1")) <= 200


def test_events_of_an_older_release_are_made_to_expire(
    redis_index: RedisIndex, valkey: Valkey
) -> None:
    for job in ("j-1", "j-2"):
        run(redis_index, job)
    redis_index.finish("j-1", 1, JobState.SUCCEEDED, (), None)
    with valkey.client() as client:
        ask(client, "PERSIST", "saeserve:events:j-1")
        ask(client, "HDEL", "saeserve:job:j-1", "keep")
        assert redis_index.expire_events(["j-1", "j-2", "j-3"]) == 1
        assert redis_index.expire_events(["j-1", "j-2", "j-3"]) == 0
        week_ms = 7 * 24 * 3600 * 1000
        assert 0 < cast(int, ask(client, "PTTL", "saeserve:events:j-1")) <= week_ms
        assert ask(client, "PTTL", "saeserve:events:j-2") == -1


def test_flushed_scripts_are_loaded_again(redis_index: RedisIndex, valkey: Valkey) -> None:
    redis_index.put(record("j-1"))
    valkey.forget_scripts()
    assert redis_index.put(record("j-2"))


def test_a_restarted_server_has_another_generation(tmp_path: Path) -> None:
    """It may have lost its last writes, and hand sequences out a second time."""
    with Valkey(tmp_path, appendonly=True) as server, server.client() as client:
        index = RedisIndex(client)
        index.set_generation("g")
        assert index.generation() == "g"
        server.stop()
        server.start()
        again = index.generation()
        assert again not in (None, "g")
        assert index.generation() == again
        index.set_generation("h")
        assert index.generation() == "h"


CALLS: dict[str, Callable[[JobIndex], object]] = {
    "put": lambda index: index.put(record("j-2")),
    "get": lambda index: index.get("j-1"),
    "ids": lambda index: index.ids(),
    "page": lambda index: index.page(JobFilter(states=frozenset({JobState.QUEUED})), 5, ""),
    "told": lambda index: index.told("j-1"),
    "events": lambda index: index.events("j-1", 0, 5),
    "counts": lambda index: index.counts(),
    "leases": lambda index: index.leases(),
    "generation": lambda index: index.generation(),
    "set_generation": lambda index: index.set_generation("x"),
}


@pytest.mark.parametrize("call", sorted(CALLS))
def test_an_unreachable_server_is_index_unavailable(call: str, tmp_path: Path) -> None:
    server = Valkey(tmp_path)
    with server.client() as nowhere, pytest.raises(IndexUnavailable, match="out of reach"):
        CALLS[call](RedisIndex(nowhere))


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_server_that_hangs_is_waited_for_once(call: str, valkey: Valkey) -> None:
    """After a command without an answer the others fail unsent, until the pause is over."""
    now = [100.0]
    with valkey.client(timeout_s=0.5) as client:
        index = RedisIndex(client, reach=Reach(pause_s=2.0, clock=lambda: now[0]))
        valkey.hang()
        try:
            with pytest.raises(IndexUnavailable, match="out of reach: Timeout"):
                index.get("j-1")
        finally:
            valkey.resume()
        now[0] = 101.9
        with pytest.raises(IndexUnavailable, match="did not answer a moment ago"):
            CALLS[call](index)
        now[0] = 102.1
        CALLS[call](index)
        CALLS[call](index)


def test_without_a_pause_each_command_is_sent(valkey: Valkey) -> None:
    """A worker's next beat after one that got no answer must not be left out."""
    with valkey.client(timeout_s=0.5) as client:
        index = RedisIndex(client)
        valkey.hang()
        try:
            with pytest.raises(IndexUnavailable):
                index.ids()
        finally:
            valkey.resume()
        assert index.ids() == []


def test_a_refusal_makes_no_pause(valkey: Valkey) -> None:
    with valkey.client() as client:
        index = RedisIndex(client, reach=Reach(pause_s=600.0))
        valkey.configure("maxmemory", "1")
        try:
            with pytest.raises(IndexUnavailable, match="refuses commands"):
                index.put(record("j-2"))
        finally:
            valkey.configure("maxmemory", "0")
        assert index.put(record("j-2"))


def test_a_server_that_refuses_writes_is_index_unavailable(
    redis_index: RedisIndex, valkey: Valkey
) -> None:
    redis_index.put(record("j-1"))
    valkey.configure("maxmemory", "1")
    try:
        with pytest.raises(IndexUnavailable, match="refuses commands"):
            redis_index.put(record("j-2"))
        assert redis_index.get("j-1") is not None
    finally:
        valkey.configure("maxmemory", "0")
    assert redis_index.ids() == ["j-1"]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(MOVES, max_size=40))
def test_redis_and_memory_tell_the_same_story(valkey: Valkey, moves: list[Move]) -> None:
    """Any sequence of moves gets the same answers, and leaves the same records and events."""
    valkey.flush()
    memory = MemoryIndex()
    with valkey.client() as client:
        index = RedisIndex(client)
        for move in moves:
            assert play(index, move) == play(memory, move), move
        assert whole(index) == whole(memory)
