"""Random moves on a job index: on one they check the state machine, on two equality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from tests.fakes.jobs import TTL, event, record

from saeserve.jobs.ports import JobIndex
from saeserve.jobs.record import Failure, JobFilter, JobRecord, Lease, Progress
from saeserve.jobs.states import TERMINAL, JobState

JOBS = ("j-1", "j-2", "j-3")
OWNERS = ("A", "B")
FIRST_STATES = (JobState.QUEUED, JobState.BLOCKED, JobState.PAUSED, JobState.RUNNING)


@dataclass(frozen=True)
class Move:
    """A call of the index: its name and what it takes of the rest."""

    name: str
    job: str = ""
    owner: str = ""
    number: int = 0
    state: JobState = JobState.QUEUED
    flag: bool = False


_JOB = st.sampled_from(JOBS)
_LEASE = {"job": _JOB, "owner": st.sampled_from(OWNERS), "number": st.integers(0, 3)}

MOVES: st.SearchStrategy[Move] = st.one_of(
    st.builds(
        Move,
        name=st.just("put"),
        job=_JOB,
        state=st.sampled_from(FIRST_STATES),
        number=st.integers(0, 1),
        owner=st.sampled_from(OWNERS),
    ),
    st.builds(Move, name=st.just("acquire"), owner=st.sampled_from(OWNERS)),
    st.builds(Move, name=st.just("start"), flag=st.booleans(), **_LEASE),
    st.builds(Move, name=st.just("beat"), flag=st.booleans(), **_LEASE),
    st.builds(Move, name=st.just("release"), **_LEASE),
    st.builds(
        Move,
        name=st.just("finish"),
        job=_JOB,
        number=st.integers(0, 3),
        state=st.sampled_from(sorted(TERMINAL)),
        flag=st.booleans(),
    ),
    st.builds(Move, name=st.sampled_from(["request_cancel", "unblock"]), job=_JOB),
    st.builds(Move, name=st.just("expire"), flag=st.booleans()),
    st.builds(Move, name=st.just("append"), job=_JOB, number=st.integers(0, 5), flag=st.booleans()),
)


def play(index: JobIndex, move: Move) -> object:
    """Make the move; its answer without times."""
    lease = Lease(job=move.job, epoch=move.number, owner=move.owner)
    match move.name:
        case "put":
            return index.put(_first(move), lease_ttl_s=TTL)
        case "acquire":
            return _timeless(index.acquire("cpu", move.owner, TTL))
        case "start":
            return index.start(lease, move.flag)
        case "beat":
            return index.beat(lease, TTL, Progress(step=move.number) if move.flag else None)
        case "release":
            return index.release(lease, "released")
        case "finish":
            failure = Failure(code="X", message="m") if move.flag else None
            return index.finish(move.job, move.number, move.state, (), failure)
        case "request_cancel":
            return _timeless(index.request_cancel(move.job))
        case "unblock":
            return index.unblock(move.job)
        case "expire":
            held = index.leases()
            stale = [each.model_copy(update={"mark": "0"}) for each in held]
            lost = index.expire(held if move.flag else stale)
            return sorted((_timeless(r) for r in lost), key=str)
        case _:
            return index.append(move.job, event(move.number, epoch=1 + move.flag))


def whole(index: JobIndex) -> list[Any]:
    """Everything that can be read of an index, without times."""
    records = [_timeless(r) for r in index.page(JobFilter(), 99, "")[0]]
    events = [e for job in JOBS for e in index.events(job, 0, 999)]
    told = [(e.sequence, e.event.model_copy(update={"time": 0.0})) for e in events]
    held = sorted(index.leases(), key=lambda each: each.job)
    return [records, told, held, index.unsettled(), index.counts(), index.runnable()]


def _first(move: Move) -> JobRecord:
    first = record(move.job, move.state, priority=move.number, owner=move.owner)
    if move.state is not JobState.RUNNING:
        return first
    return first.model_copy(update={"epoch": 1, "attempt": 1, "owner_id": move.owner})


def _timeless(found: JobRecord | None) -> JobRecord | None:
    timeless = {"started": 0.0, "ended": 0.0}
    return found.model_copy(update=timeless) if found else None
