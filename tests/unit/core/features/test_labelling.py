"""What a finished pass proposes as patterns: only what its examples on training rows show."""

from __future__ import annotations

import numpy as np

from saeserve.core.features.labelling import Examples
from saeserve.core.features.schema import GAP
from saeserve.core.features.state import CollectSettings, new_state
from saeserve.core.labels.atoms import Atoms
from saeserve.core.labels.proposing import join
from saeserve.core.labels.text import Kind, key_of

TOKENS = np.array([7, GAP, 8, 7, GAP, 8, 5, 6, 5, 6, 9, 4], np.int32)
SEQUENCES = np.array([[0, 0, 0], [10, 1, 1]])
"""The second is of the second document, which is held out."""
Places = dict[int, tuple[list[int], list[int]]]
PLACES: Places = {0: ([2, 5], [2, 11]), 1: ([7], [9]), 2: ([], [11])}
"""Of each feature, places of its largest firings and of those drawn."""


def pairs(atoms: Atoms) -> set[tuple[int, int]]:
    return set(zip(atoms.feature_A.tolist(), atoms.key_A.tolist(), strict=True))


def examples(trained: tuple[bool, bool], places: Places = PLACES) -> Examples:
    sizes = CollectSettings(3, top=2, uniform=2, intervals=1, per_interval=1)
    state = new_state(sizes)
    for feature, (top, drawn) in places.items():
        state.position_FS[feature, : len(top)] = top
        state.position_FS[feature, 2 : 2 + len(drawn)] = drawn
    return Examples(state, TOKENS, SEQUENCES, np.array(trained))


def test_patterns_come_from_training_rows_and_do_not_reach_over_gaps() -> None:
    promoted = np.array([[1, 2], [3, -1], [1, 1]], np.int32)
    found = join([examples((True, False)).propose(0)], promoted)
    six = (1, key_of(Kind.TOKEN, 0, 6))
    # 7 … 8 stood twice, but with a gap between; 5 + 6 twice, side by side.
    assert pairs(found.patterns) == {
        (0, key_of(Kind.TOKEN, 0, 8)),
        six,
        (1, key_of(Kind.PAIR, 5, 6)),
    }
    assert pairs(found.top_tokens) == {(0, key_of(Kind.TOKEN, 0, 8)), six}
    # The last feature was seen on held-out rows alone.
    raised = {(0, 1), (0, 2), (1, 3)}
    assert pairs(found.promoted) == {(f, key_of(Kind.NEXT, 0, token)) for f, token in raised}


def test_rows_of_a_document_that_is_not_held_out_count() -> None:
    found = examples((True, True)).propose(0)
    assert (2, key_of(Kind.TOKEN, 0, 4)) in pairs(found.patterns)


def test_a_firing_that_was_kept_twice_counts_once() -> None:
    """Feature 1 has 5 + 6 at one place alone, among the largest and among those drawn."""
    found = examples((True, True), {1: ([7], [7])}).propose(0)
    assert pairs(found.patterns) == {(1, key_of(Kind.TOKEN, 0, 6))}
