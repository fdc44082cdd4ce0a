"""The state machine, and the index in memory held against it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.fakes.job_moves import JOBS, MOVES, Move, play
from tests.fakes.memory_index import MemoryIndex

from saeserve.jobs.record import JobRecord
from saeserve.jobs.states import LEASED, TERMINAL, TRANSITIONS, JobState, may_become


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
        self.unsettled: list[str] = []

    @rule(move=MOVES)
    def make(self, move: Move) -> None:
        self.unsettled = self.index.unsettled()
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
                    self.check(job, old, new)
                    self.checked[job] = sequence

    def check(self, job: str, old: JobState, new: JobState) -> None:
        # The one exception: a cancellation that no result backed yields to the store's.
        corrected = old is JobState.CANCELLED and job in self.unsettled and new in TERMINAL
        assert may_become(old, new) or corrected, (job, old, new)

    @invariant()
    def records_are_consistent(self) -> None:
        held = {lease.job for lease in self.index.leases()}
        for job in JOBS:
            record = self.index.get(job)
            if record is None:
                continue
            assert (record.owner_id != "") == (record.state in LEASED)
            assert (record.id in held) == (record.state in LEASED)
            assert (record.ended > 0) == (record.state in TERMINAL)
            before = self.seen.get(job, record)
            assert record.epoch >= before.epoch
            assert record.attempt >= before.attempt
            assert record.revision >= before.revision
            self.seen[job] = record

    @invariant()
    def a_settled_end_stays(self) -> None:
        for job, before in self.seen.items():
            if before.state in TERMINAL and job not in self.unsettled:
                assert self.index.get(job) == before


IndexMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestIndexMachine = IndexMachine.TestCase
