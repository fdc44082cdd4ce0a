"""Patterns that may be part of a feature's label, and how often they are right.

An atom is one pattern for one feature. On a text it has two numbers: on how many rows the pattern
stands, and on how many of them the feature fires. Both are sums over rows, so texts can be counted
in parts.

Shape suffixes: A atoms, F features, Z entries, N rows, P samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from saeserve.core.labels.text import ABSENT, Integers, Keys, Kind, Text, keys_of, kind_of

Number = TypeVar("Number", np.int64, np.uint64)


@dataclass(frozen=True)
class Atoms:
    """Atoms in the order of feature, then key; none occurs twice."""

    feature_A: Integers
    key_A: Keys

    def kinds(self) -> Keys:
        """Kind of each pattern, [A]."""
        return kind_of(self.key_A)


def sorted_atoms(feature: Integers, key: Keys) -> Atoms:
    """Atoms of these pairs, each once."""
    order = np.lexsort((key, feature))
    feature, key = feature[order], key[order]
    new = np.ones(feature.size, dtype=bool)
    new[1:] = (feature[1:] != feature[:-1]) | (key[1:] != key[:-1])
    return Atoms(feature[new], key[new])


def frequent(sample_feature_P: Integers, sample_key_P: Keys, at_least: int, at_most: int) -> Atoms:
    """For each feature the patterns that most of its samples end with: at most `at_most`, each on
    at least `at_least` samples; among equals the smaller key. ABSENT is not a pattern."""
    known = sample_key_P != ABSENT
    pairs = sorted_pairs(sample_feature_P[known], sample_key_P[known])
    kept = pairs.count >= at_least
    feature, key, count = pairs.feature[kept], pairs.key[kept], pairs.count[kept]
    order = np.lexsort((key, -count, feature))
    feature, key = feature[order], key[order]
    rank = np.arange(feature.size) - np.searchsorted(feature, feature, side="left")
    return sorted_atoms(feature[rank < at_most], key[rank < at_most])


@dataclass(frozen=True)
class Pairs:
    """Different pairs of a feature and a key, and how often each occurred."""

    feature: Integers
    key: Keys
    count: Integers


def sorted_pairs(feature: Integers, key: Keys) -> Pairs:
    """Pairs with their counts, in the order of feature, then key."""
    order = np.lexsort((key, feature))
    feature, key = feature[order], key[order]
    new = np.ones(feature.size, dtype=bool)
    new[1:] = (feature[1:] != feature[:-1]) | (key[1:] != key[:-1])
    start = np.flatnonzero(new)
    return Pairs(feature[start], key[start], np.diff(np.append(start, feature.size)))


@dataclass
class Counts:
    """How often atoms matched on the text that was added so far."""

    atoms: Atoms
    d_sae: int
    rows: int = 0
    fired_F: Integers = field(init=False)
    """Rows on which each feature fired."""
    matched_A: Integers = field(init=False)
    """Rows at which each pattern stands."""
    right_A: Integers = field(init=False)
    """Those of them on which its feature fires."""

    def __post_init__(self) -> None:
        self._keys, self._place_A = np.unique(self.atoms.key_A, return_inverse=True)
        codes = self._place_A * self.d_sae + self.atoms.feature_A
        self._order = np.argsort(codes)
        self._codes = codes[self._order]
        self.fired_F = np.zeros(self.d_sae, dtype=np.int64)
        self.matched_A = np.zeros(codes.size, dtype=np.int64)
        self.right_A = np.zeros(codes.size, dtype=np.int64)

    def add(self, text: Text) -> None:
        """Count a text: any part of it, sequences whole."""
        self.rows += text.row_N.size
        self.fired_F += np.bincount(text.entry_feature_Z, minlength=self.d_sae)
        for kind in Kind:
            self._add_kind(text, kind)

    def _add_kind(self, text: Text, kind: Kind) -> None:
        place_N = _places(self._keys, keys_of(text, kind))
        found = place_N[place_N >= 0]
        self.matched_A += np.bincount(found, minlength=self._keys.size)[self._place_A]
        place_Z = place_N[text.entry_row_Z]
        known = place_Z >= 0
        codes = place_Z[known] * self.d_sae + text.entry_feature_Z[known]
        right = _places(self._codes, codes)
        self.right_A[self._order] += np.bincount(right[right >= 0], minlength=self._codes.size)


def counted(atoms: Atoms, d_sae: int, texts: Iterable[Text]) -> Counts:
    """Counts of some texts together."""
    counts = Counts(atoms, d_sae)
    for text in texts:
        counts.add(text)
    return counts


def _places(ordered: npt.NDArray[Number], wanted: npt.NDArray[Number]) -> Integers:
    """Where each wanted number is in an ordered array, -1 for those that are not there."""
    if not ordered.size:
        return np.full(wanted.size, -1, dtype=np.int64)
    place = np.searchsorted(ordered, wanted)
    place[place == ordered.size] = 0
    return np.where(ordered[place] == wanted, place, -1)
