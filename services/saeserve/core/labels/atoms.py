"""Patterns that may be part of a feature's label, and how often they are right.

An atom is one pattern for one feature. On a text it has two numbers: on how many rows the pattern
stands, and on how many of them the feature fires. Both are sums over rows, so texts can be counted
in parts.

Shape suffixes: A atoms, F features, Z entries, N rows, P samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from saeserve.core.labels.text import ABSENT, Integers, Keys, Kind, Text, keys_of, kind_of


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


@dataclass(frozen=True)
class Counts:
    """How often atoms matched on some text."""

    atoms: Atoms
    d_sae: int
    rows: int
    fired_F: Integers
    """Rows on which each feature fired."""
    matched_A: Integers
    """Rows at which each pattern stands."""
    right_A: Integers
    """Rows of them on which its feature fires."""


def counted(atoms: Atoms, d_sae: int, texts: Iterable[Text]) -> Counts:
    """Counts of some texts together: any parts of a text, sequences whole."""
    counting = _Counting(atoms, d_sae)
    for text in texts:
        counting.add(text)
    return counting.counts()


class _Counting:
    """Sums by key, and by key and feature: a text touches few of them, and atoms look theirs up at
    the end."""

    def __init__(self, atoms: Atoms, d_sae: int) -> None:
        self._atoms, self._d_sae = atoms, d_sae
        self._keys_K, self._place_A = np.unique(atoms.key_A, return_inverse=True)
        codes_A = self._codes(self._place_A, atoms.feature_A)
        self._order_A = np.argsort(codes_A)
        self._sorted_A = codes_A[self._order_A]
        self._matched_K = np.zeros(self._keys_K.size, dtype=np.int64)
        self._right_A = np.zeros(codes_A.size, dtype=np.int64)
        self._fired_F = np.zeros(d_sae, dtype=np.int64)
        self._rows = 0

    def add(self, text: Text) -> None:
        self._rows += text.row_N.size
        self._fired_F += np.bincount(text.entry_feature_Z, minlength=self._d_sae)
        for kind in Kind:
            self._add_kind(text, kind)

    def counts(self) -> Counts:
        right_A = np.empty_like(self._right_A)
        right_A[self._order_A] = self._right_A
        matched_A = self._matched_K[self._place_A]
        return Counts(self._atoms, self._d_sae, self._rows, self._fired_F, matched_A, right_A)

    def _add_kind(self, text: Text, kind: Kind) -> None:
        place_N = _places(self._keys_K, keys_of(text, kind))
        np.add.at(self._matched_K, place_N[place_N >= 0], 1)
        place_Z = place_N[text.entry_row_Z]
        known_Z = place_Z >= 0
        codes = self._codes(place_Z[known_Z], text.entry_feature_Z[known_Z])
        # In order, neighbours are looked up in the same part of the codes.
        codes.sort()
        right = _places(self._sorted_A, codes)
        np.add.at(self._right_A, right[right >= 0], 1)

    def _codes(self, place: Integers, feature: Integers) -> Integers:
        return place * self._d_sae + feature


def _places(ordered: Integers | Keys, wanted: Integers | Keys) -> Integers:
    """Where each wanted number is in an ordered array, -1 for those that are not there."""
    if not ordered.size:
        return np.full(wanted.size, -1, dtype=np.int64)
    place = np.searchsorted(ordered, wanted)
    place[place == ordered.size] = 0
    return np.where(ordered[place] == wanted, place, -1)
