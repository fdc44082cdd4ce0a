"""The state machine, and the index in memory held against it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.fakes.job_moves import JOBS, MOVES, Move, play
from tests.fakes.memory_index import MemoryIndex

from saeserve.jobs.record import JobRecord
from saeserve.jobs.states import LEASED, TERMINAL, JobState

_S = JobState
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    _S.BLOCKED: frozenset({_S.QUEUED, _S.CANCELLING, _S.FAILED, _S.CANCELLED}),
    _S.QUEUED: frozenset(
        {_S.STARTING, _S.PAUSED, _S.CANCELLING, _S.CANCELLED, _S.FAILED, _S.SUCCEEDED}
    ),
    _S.STARTING: frozenset(
        {_S.RUNNING, _S.QUEUED, _S.PAUSING, _S.CANCELLING, _S.FAILED, _S.SUCCEEDED}
    ),
    _S.RUNNING: frozenset({_S.QUEUED, _S.PAUSING, _S.CANCELLING, _S.FAILED, _S.SUCCEEDED}),
    _S.PAUSING: frozenset({_S.PAUSED, _S.CANCELLING, _S.FAILED, _S.SUCCEEDED}),
    _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLING, _S.CANCELLED}),
    _S.CANCELLING: frozenset({_S.CANCELLED, _S.FAILED, _S.SUCCEEDED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
"""What the state of a job may become; the index's scripts are the machine itself."""


def may_become(old: JobState, new: JobState) -> bool:
    return new in TRANSITIONS[old]


def test_every_state_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(JobState)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_terminal_states_absorb(state: JobState) -> None:
    assert not any(may_become(state, other) for other in JobState)


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL))
def test_every_live_state_can_end(state: JobState) -> None:
    reached, frontier = {state}, {state}
    while frontier:
        frontier = {new for old in frontier for new in TRANSITIONS[old]} - reached
        reached |= frontier
    assert reached >= TERMINAL


class IndexMachine(RuleBasedStateMachine):
    """Any moves: every change that the index tells is one that the state machine allows."""

    def __init__(self) -> None:
        super().__init__()
        self.index = MemoryIndex()
        self.checked: dict[str, int] = {}
        self.seen: dict[str, JobRecord] = {}
        self.finished: set[str] = set()

    @rule(move=MOVES)
    def make(self, move: Move) -> None:
        if move.name == "finish":
            self.finished.add(move.job)
        play(self.index, move)

    @invariant()
    def every_told_transition_is_allowed(self) -> None:
        for job in JOBS:
            told = [
                (e.sequence, JobState(e.event.data["state"]))
                for e in self.index.events(job, 0, 10_000)
                if e.event.type == "state_changed"
            ]
            for (_, old), (sequence, new) in pairwise(told):
                if sequence > self.checked.get(job, 0):
                    assert may_become(old, new), (job, old, new)
                    self.checked[job] = sequence

    @invariant()
    def records_are_consistent(self) -> None:
        held = {lease.job for lease in self.index.leases()}
        for job in JOBS:
            record = self.index.get(job)
            if record is None:
                continue
            leased = record.state in LEASED and job not in self.index.unsettled()
            assert (record.owner_id != "") == leased
            assert (record.id in held) == leased
            assert (record.ended > 0) == (record.state in TERMINAL)
            before = self.seen.get(job, record)
            assert record.epoch >= before.epoch
            assert record.attempt >= before.attempt
            assert record.revision >= before.revision
            self.seen[job] = record

    @invariant()
    def only_a_told_result_ends_a_job(self) -> None:
        for job in JOBS:
            record = self.index.get(job)
            if record is not None and record.state in TERMINAL:
                assert job in self.finished, record

    @invariant()
    def an_end_stays(self) -> None:
        for job, before in self.seen.items():
            if before.state in TERMINAL:
                assert self.index.get(job) == before


IndexMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestIndexMachine = IndexMachine.TestCase
