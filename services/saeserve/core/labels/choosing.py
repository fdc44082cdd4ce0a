"""From counted atoms to one label a feature: chosen on one half of a text, scored on the other.

A label is a set of atoms, no two of which match at one row, so that its numbers are sums:

    precision = right / matched        rows with a pattern of the label on which the feature fires
    recall = right / fired             rows on which the feature fires that have such a pattern
    F1 = 2 right / (matched + fired)

NEXT patterns match by another token than the others do, so a label never mixes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from saeserve.core.labels.atoms import Atoms, Counts
from saeserve.core.labels.proposing import Proposals
from saeserve.core.labels.text import Integers, Keys, Kind, last_token_of

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

SURE: Final = 0.5
"""Share of its rows on which a pair must be right."""


class Method(IntEnum):
    """How a label was made."""

    TOP_TOKENS = 0
    """The tokens on which the strongest activations fall."""
    PROMOTED = 1
    """The next tokens whose logits the decoder's row raises most."""
    PATTERNS = 2
    """Tokens, pairs and pairs with a token between that predict where the feature fires."""


@dataclass(frozen=True)
class Chosen:
    """The atoms of each feature's label by one method, most precise first."""

    method: Method
    atom_L: Integers
    """Indices of atoms, sorted by feature."""
    f1_F: Floats
    """On the text they were chosen on; 0 for a feature without a label."""


def choose(proposals: Proposals, atoms: Atoms, fitted: Counts) -> list[Chosen]:
    """A label of each method for each feature; `fitted` has the counts of `atoms`, the text's first
    half."""
    top, promoted = _members(proposals.top_tokens, atoms), _members(proposals.promoted, atoms)
    patterns = _best_prefix(fitted, _disjoint(_members(proposals.patterns, atoms), atoms, fitted))
    return [
        _chosen(Method.TOP_TOKENS, top, fitted),
        _chosen(Method.PROMOTED, promoted, fitted),
        _chosen(Method.PATTERNS, patterns, fitted),
    ]


def best_methods(chosen: list[Chosen]) -> Integers:
    """For each feature the method whose label had the largest F1 where it was chosen, -1 where all
    have 0; among equals PATTERNS, then TOP_TOKENS."""
    order = (Method.PATTERNS, Method.TOP_TOKENS, Method.PROMOTED)
    f1_MF = np.stack([next(each.f1_F for each in chosen if each.method == name) for name in order])
    best_F = np.array(order, dtype=np.int64)[f1_MF.argmax(0)]
    return np.where(f1_MF.max(0) > 0, best_F, -1)


def _members(some: Atoms, atoms: Atoms) -> Integers:
    """Where `some` are among `atoms`, which have them all."""
    every = np.concatenate([some.feature_A, atoms.feature_A])
    keys = np.concatenate([some.key_A, atoms.key_A])
    order = np.lexsort((np.arange(every.size) >= some.feature_A.size, keys, every))
    ours = order < some.feature_A.size
    return order[np.flatnonzero(ours) + 1] - some.feature_A.size


def _chosen(method: Method, atom_L: Integers, fitted: Counts) -> Chosen:
    atom_L = atom_L[_by_precision(fitted, atom_L)]
    feature_L = fitted.atoms.feature_A[atom_L]
    right_F = np.bincount(feature_L, fitted.right_A[atom_L], minlength=fitted.d_sae)
    matched_F = np.bincount(feature_L, fitted.matched_A[atom_L], minlength=fitted.d_sae)
    return Chosen(method, atom_L, f1_of(right_F, matched_F, fitted.fired_F))


def f1_of(right: npt.ArrayLike, matched: npt.ArrayLike, fired: npt.ArrayLike) -> Floats:
    """2 right / (matched + fired), 0 where both are 0."""
    below = np.asarray(matched, dtype=np.float64) + np.asarray(fired, dtype=np.float64)
    return 2 * np.asarray(right, dtype=np.float64) / np.maximum(below, 1)


def _smoothed(fitted: Counts, atom_L: Integers) -> Floats:
    """Precision with half a match more, so that patterns which the text lacks come last."""
    return (fitted.right_A[atom_L] + 0.5) / (fitted.matched_A[atom_L] + 1)


def _by_precision(fitted: Counts, atom_L: Integers) -> Integers:
    """The order by feature, then precision, largest first, then key."""
    feature_L, key_L = fitted.atoms.feature_A[atom_L], fitted.atoms.key_A[atom_L]
    return np.lexsort((key_L, -_smoothed(fitted, atom_L), feature_L))


def _disjoint(atom_L: Integers, atoms: Atoms, fitted: Counts) -> Integers:
    """For each feature and last token one kind of pattern: the token alone, pairs, or pairs with a
    token between, whichever is right more often than wrong by the most rows; of equal kinds the
    first. Of pairs only sure ones are taken."""
    kind_L, sure_L = atoms.kinds()[atom_L].astype(np.int64), _smoothed(fitted, atom_L) >= SURE
    group_L = _groups(atoms.feature_A[atom_L], last_token_of(atoms.key_A[atom_L]))
    gain_L = np.where(sure_L, 2 * fitted.right_A[atom_L] - fitted.matched_A[atom_L], 0)
    gain_GK = np.zeros((int(group_L.max(initial=-1)) + 1, Kind.NEXT), dtype=np.int64)
    np.add.at(gain_GK, (group_L, kind_L), gain_L)
    of_choice_L = kind_L == gain_GK.argmax(1)[group_L]
    return atom_L[of_choice_L & (sure_L | (kind_L == Kind.TOKEN))]


def _groups(feature_L: Integers, token_L: Keys) -> Integers:
    pairs = np.stack([feature_L.astype(np.uint64), token_L])
    return np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1)


def _best_prefix(fitted: Counts, atom_L: Integers) -> Integers:
    """The atoms of each feature, most precise first, as many as give the largest F1; of equal
    numbers the larger."""
    atom_L = atom_L[_by_precision(fitted, atom_L)]
    feature_L = fitted.atoms.feature_A[atom_L]
    start_L = np.searchsorted(feature_L, feature_L, side="left")
    right_L, matched_L = (
        _sums_since(counts[atom_L], start_L) for counts in (fitted.right_A, fitted.matched_A)
    )
    f1_L = f1_of(right_L, matched_L, fitted.fired_F[feature_L])
    best_F = np.zeros(fitted.d_sae)
    np.maximum.at(best_F, feature_L, f1_L)
    last_F = np.full(fitted.d_sae, -1, dtype=np.int64)
    place_L = np.arange(atom_L.size)
    reached = f1_L >= best_F[feature_L]
    np.maximum.at(last_F, feature_L[reached], place_L[reached])
    return atom_L[place_L <= last_F[feature_L]]


def _sums_since(numbers_L: Integers, start_L: Integers) -> Integers:
    """Running sums that begin again at each feature."""
    sums = np.concatenate([[0], np.cumsum(numbers_L)])
    return sums[1:] - sums[start_L]
