"""Labels as they are shown and stored: words, and how well they predict a feature on other text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from saeserve.core.labels.atoms import Atoms, Counts, counted
from saeserve.core.labels.choosing import Chosen, Method, best_methods, choose, f1_of
from saeserve.core.labels.proposing import Proposals
from saeserve.core.labels.text import Integers, Kind, Text, unpack

DEFINITION = "label/1"
"""Named by bundles; a change of how patterns are proposed, chosen or counted raises the version."""
_VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥", "\xa0": "⍽"})
SHOWN = 5
"""Patterns that a label's words name; the others are counted."""
NORMAL_95 = 1.959964
"""The normal distribution's 97.5 % point: intervals of 95 %."""


@dataclass(frozen=True)
class Proportion:
    """A share with its 95 % interval (Wilson 1927); both are nan where nothing was counted."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Label:
    """What a feature fires on, by one method."""

    feature: int
    method: Method
    words: str
    """Its patterns, most precise first."""
    patterns: tuple[int, ...]
    """All of them, as `text.unpack` reads them."""
    matched: int
    """Rows of the scored text that have one of the patterns."""
    fired: int
    """Rows on which the feature fires."""
    right: int
    """Rows with both."""
    best: bool
    """Whether this method had the largest F1 on the text that labels were chosen on."""

    @property
    def precision(self) -> Proportion:
        """Share of the rows with one of the patterns on which the feature fires."""
        return proportion(self.right, self.matched)

    @property
    def recall(self) -> Proportion:
        """Share of the rows on which the feature fires that have one of the patterns."""
        return proportion(self.right, self.fired)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; nan where one is."""
        if not self.matched or not self.fired:
            return float("nan")
        return float(f1_of(self.right, self.matched, self.fired))


@dataclass(frozen=True)
class Labels:
    """Labels of all features, as arrays."""

    atoms: Atoms
    chosen: Sequence[Chosen]
    best_F: Integers
    """The method of each feature's best label, -1 for none."""
    chosen_rows: int
    scored: Counts

    def in_words(self, name_of: Callable[[int], str]) -> Iterator[Label]:
        """Labels of every feature that has a best one, feature by feature for each method.
        `name_of` gives a token's words."""
        for each in self.chosen:
            yield from _labels_of(each, self, name_of)


def make_labels(
    proposals: Proposals, d_sae: int, chosen_on: Iterable[Text], scored_on: Iterable[Text]
) -> Labels:
    """Choose patterns on one text and score them on another, so that a score is of text that had
    no part in the label; rows of both must not be among the samples of `proposals`."""
    atoms = proposals.together
    fitted = counted(atoms, d_sae, chosen_on)
    chosen, rows = choose(proposals, atoms, fitted), fitted.rows
    del fitted
    scored = counted(atoms, d_sae, scored_on)
    return Labels(atoms, chosen, best_methods(chosen), rows, scored)


def proportion(right: int, n: int) -> Proportion:
    """Wilson's interval of `right` among `n`."""
    if not n:
        return Proportion(float("nan"), float("nan"), float("nan"), 0)
    share, z = right / n, NORMAL_95
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Proportion(share, max(0.0, middle - half), min(1.0, middle + half), n)


def words_of(patterns: Sequence[int], name_of: Callable[[int], str]) -> str:
    """The first patterns in words: `dog`, `New + York`, `as … as`, `before the`."""
    named = [_pattern_words(key, name_of) for key in patterns[:SHOWN]]
    more = len(patterns) - len(named)
    return ", ".join(named) + (f" (+{more})" if more else "")


def visible(text: str, token: int) -> str:
    """A token's words: its text, white space made visible; its number where it has none."""
    return text.translate(_VISIBLE) or f"token {token}"


def _pattern_words(key: int, name_of: Callable[[int], str]) -> str:
    kind, first, second = unpack(key)
    if kind is Kind.TOKEN:
        return name_of(second)
    if kind is Kind.NEXT:
        return f"before {name_of(second)}"
    return f"{name_of(first)} {'+' if kind is Kind.PAIR else '…'} {name_of(second)}"


def _labels_of(chosen: Chosen, made: Labels, name_of: Callable[[int], str]) -> Iterator[Label]:
    feature_L = made.atoms.feature_A[chosen.atom_L]
    start = np.flatnonzero(np.diff(feature_L, prepend=-1))
    end = np.append(start[1:], feature_L.size)[: start.size]
    key_L = made.atoms.key_A[chosen.atom_L]
    matched, right = (
        np.add.reduceat(counts_A[chosen.atom_L], start) if start.size else start
        for counts_A in (made.scored.matched_A, made.scored.right_A)
    )
    columns = (feature_L[start], start, end, matched, right)
    for feature, first, last, of_matched, of_right in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        if made.best_F[feature] < 0:
            continue
        patterns = tuple(key_L[first:last].tolist())
        yield Label(
            feature=feature,
            method=chosen.method,
            words=words_of(patterns, name_of),
            patterns=patterns,
            matched=of_matched,
            fired=int(made.scored.fired_F[feature]),
            right=of_right,
            best=int(made.best_F[feature]) == chosen.method,
        )
