"""Labels of features that were planted: what they fire on is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from saeserve.core.labels.atoms import counted
from saeserve.core.labels.choosing import Method
from saeserve.core.labels.label import Label, make_labels, proportion, words_of
from saeserve.core.labels.proposing import join, propose
from saeserve.core.labels.text import Kind, Text, key_of, keys_of, unpack
from saeserve.errors import DataError

VOCABULARY, LENGTH, D_SAE = 60, 32, 7
SET = (3, 17, 40)
Fires = Callable[[np.ndarray, np.ndarray], np.ndarray]


def before(tokens: np.ndarray, sequences: np.ndarray, places: int) -> np.ndarray:
    """The token so many places earlier in the sequence, or -1."""
    earlier = np.concatenate([np.full(places, -1), tokens[:-places]])
    same = np.concatenate([np.full(places, -1), sequences[:-places]]) == sequences
    return np.where(same, earlier, -1)


def after(tokens: np.ndarray, sequences: np.ndarray) -> np.ndarray:
    """The next token of the sequence, or -1."""
    return before(tokens[::-1], sequences[::-1], 1)[::-1]


PLANTED: dict[int, Fires] = {
    0: lambda tokens, _: np.isin(tokens, SET),
    1: lambda tokens, sequences: (tokens == 7) & (before(tokens, sequences, 1) == 8),
    2: lambda tokens, sequences: (tokens == 9) & (before(tokens, sequences, 2) == 9),
    3: lambda tokens, sequences: after(tokens, sequences) == 11,
    4: lambda tokens, _: np.random.default_rng(tokens.size).random(tokens.size) < 0.05,
    5: lambda tokens, _: (
        np.random.default_rng(tokens.size).random(tokens.size)
        < np.select([tokens == 21, tokens == 20], [1, 0.8], 0.01)
    ),
}
"""What each feature fires on; the fifth is noise, the sixth has some, and the last never fires."""


def planted(seed: int, sequences: int = 300) -> Text:
    random = np.random.default_rng(seed)
    tokens = random.integers(0, VOCABULARY, sequences * LENGTH)
    tokens[random.random(tokens.size) < 0.2] = 8
    tokens[(np.roll(tokens, 1) == 8) & (random.random(tokens.size) < 0.3)] = 7
    tokens[random.random(tokens.size) < 0.15] = 9
    of = np.repeat(np.arange(sequences), LENGTH)
    fires = np.stack([rule(tokens, of) for rule in PLANTED.values()])
    feature, row = np.nonzero(fires)
    return Text(tokens, of, np.arange(tokens.size), row, feature)


def labels_of(name_of: Callable[[int], str] = str) -> dict[tuple[int, Method], Label]:
    samples = planted(1, sequences=60)
    strongest = np.random.default_rng(0).random(samples.entry_row_Z.size) < 0.5
    promoted = np.full((D_SAE, 2), -1)
    promoted[3] = 11, -1
    proposals = join([propose(samples, strongest)], promoted)
    made = make_labels(proposals, D_SAE, [planted(2)], [planted(3), planted(4)])
    return {(each.feature, each.method): each for each in made.in_words(name_of)}


def best(labels: dict[tuple[int, Method], Label], feature: int) -> Label:
    (label,) = (each for each in labels.values() if each.feature == feature and each.best)
    return label


def test_a_planted_token_set_is_found_whole_and_exactly() -> None:
    label = best(labels_of(), 0)
    assert label.method is Method.PATTERNS
    assert sorted(label.patterns) == [key_of(Kind.TOKEN, 0, token) for token in SET]
    assert (label.precision.value, label.recall.value, label.f1) == (1, 1, 1)
    assert label.precision.low > 0.98


@pytest.mark.parametrize(
    ("feature", "pattern", "words"),
    [(1, (Kind.PAIR, 8, 7), "8 + 7"), (2, (Kind.SKIP, 9, 9), "9 … 9")],
)
def test_a_planted_pair_is_found_where_its_token_alone_is_not_enough(
    feature: int, pattern: tuple[Kind, int, int], words: str
) -> None:
    labels = labels_of()
    label = best(labels, feature)
    assert [unpack(key) for key in label.patterns] == [pattern]
    assert (label.precision.value, label.recall.value, label.words) == (1, 1, words)
    assert labels[feature, Method.TOP_TOKENS].precision.value < 0.7


def test_a_feature_that_predicts_the_next_token_is_labelled_by_what_it_promotes() -> None:
    label = best(labels_of(), 3)
    assert (label.method, label.words) == (Method.PROMOTED, "before 11")
    assert (label.precision.value, label.recall.value) == (1, 1)


def test_noise_is_seen_to_be_badly_labelled_and_a_silent_feature_has_no_label() -> None:
    labels = labels_of()
    noise = best(labels, 4)
    assert noise.f1 < 0.2
    assert noise.precision.high < 0.2
    assert not [each for feature, each in labels if feature == 6]


def test_only_what_predicts_well_is_part_of_a_label_the_most_precise_first() -> None:
    label = best(labels_of(), 5)
    assert label.words == "21, 20"
    assert 0.8 < label.precision.value < 1
    assert 0.6 < label.recall.value < 0.9


def test_a_score_is_of_the_scored_text_alone() -> None:
    """The feature fires on the token on the text that chose, and never on the text that scores."""
    fires, silent = planted(2), planted(3)
    silent = Text(
        silent.tokens_T, silent.sequence_T, silent.row_N, np.empty(0, int), np.empty(0, int)
    )
    strongest = np.ones(fires.entry_row_Z.size, dtype=bool)
    made = make_labels(propose(fires, strongest), D_SAE, [fires], [silent])
    label = best({(each.feature, each.method): each for each in made.in_words(str)}, 0)
    assert label.precision.value == 0
    assert label.recall.n == 0
    assert np.isnan(label.recall.value)
    assert np.isnan(label.f1)


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    text, cut = planted(5), 150 * LENGTH
    row = text.row_N < cut
    entry = text.entry_row_Z < cut
    first = Text(
        text.tokens_T[:cut],
        text.sequence_T[:cut],
        text.row_N[row],
        text.entry_row_Z[entry],
        text.entry_feature_Z[entry],
    )
    second = Text(
        text.tokens_T[cut:],
        text.sequence_T[cut:],
        text.row_N[~row] - cut,
        text.entry_row_Z[~entry] - cut,
        text.entry_feature_Z[~entry],
    )
    atoms = propose(text, np.ones(text.entry_row_Z.size, dtype=bool)).together
    whole, parts = counted(atoms, D_SAE, [text]), counted(atoms, D_SAE, [first, second])
    assert whole.right_A.any()
    for name in ("fired_F", "matched_A", "right_A"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_counts_are_those_of_a_loop() -> None:
    text = planted(6, sequences=20)
    atoms = propose(text, np.ones(text.entry_row_Z.size, dtype=bool)).together
    counts = counted(atoms, D_SAE, [text])
    fires = set(zip(text.entry_row_Z.tolist(), text.entry_feature_Z.tolist(), strict=True))
    for place in range(0, atoms.key_A.size, 7):
        kind, feature = Kind(int(atoms.kinds()[place])), int(atoms.feature_A[place])
        rows = np.flatnonzero(keys_of(text, kind) == atoms.key_A[place])
        assert counts.matched_A[place] == rows.size
        assert counts.right_A[place] == sum((int(row), feature) in fires for row in rows)


def test_patterns_do_not_reach_into_another_sequence_and_see_tokens_that_are_not_rows() -> None:
    tokens, of = np.array([5, 6, 7, 8]), np.array([0, 0, 1, 1])
    text = Text(tokens, of, np.array([1, 2, 3]), np.empty(0, int), np.empty(0, int))
    pairs = keys_of(text, Kind.PAIR)
    assert [unpack(int(key))[1:] for key in pairs[[0, 2]]] == [(5, 6), (7, 8)]
    assert pairs[1] == 2**64 - 1
    assert [int(key) == 2**64 - 1 for key in keys_of(text, Kind.NEXT)] == [True, False, True]


def test_words_name_five_patterns_and_count_the_others() -> None:
    keys = [key_of(Kind.TOKEN, 0, token) for token in range(7)]
    assert words_of(keys, lambda token: f"t{token}") == "t0, t1, t2, t3, t4 (+2)"


def test_an_interval_is_wilsons() -> None:
    found = proportion(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert np.isnan(proportion(0, 0).low)


def test_a_text_that_contradicts_itself_is_refused() -> None:
    one, none = np.zeros(1, int), np.empty(0, int)
    for text in (
        (one, none, none, none, none),
        (one, one, one, one, none),
        (one - 1, one, none, none, none),
        (one, one, one + 1, none, none),
        (one, one, one, one + 1, one),
        (one, one, one, one, one - 1),
    ):
        with pytest.raises(DataError, match="text: "):
            Text(*text)
