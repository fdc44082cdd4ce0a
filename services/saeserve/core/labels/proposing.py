"""Which patterns may label a feature: read off samples of where it fires, and its logit weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saeserve.core.labels.atoms import Atoms, frequent, sorted_atoms
from saeserve.core.labels.text import Integers, Kind, Text, keys_of

TOKENS = 16
"""Tokens of a feature that are looked at: those on which most of its samples fire."""
LONGER = 12
"""Pairs of a feature, and as many pairs with a token between."""
SEEN_TWICE = 2
"""Samples that a longer pattern must have: what was seen once describes one place."""
NAMED = 10
"""Tokens that the labels of most active and of promoted tokens have at most."""


@dataclass(frozen=True)
class Proposals:
    """Atoms of each way of labelling; those of `patterns` include all TOKEN atoms."""

    top_tokens: Atoms
    promoted: Atoms
    patterns: Atoms

    @property
    def together(self) -> Atoms:
        """All atoms, each once."""
        every = (self.top_tokens, self.promoted, self.patterns)
        return sorted_atoms(
            np.concatenate([each.feature_A for each in every]),
            np.concatenate([each.key_A for each in every]),
        )


def propose(samples: Text, strongest_Z: np.ndarray, promoted_FJ: Integers | None) -> Proposals:
    """Proposals for all features of `samples`, whose rows and entries are where features fire.

    `strongest_Z` marks the entries that are among the largest activations of their feature. Row f
    of `promoted_FJ` has the tokens that feature f raises most, largest first, where they are known;
    -1 is not a token.
    """
    feature_Z, row_Z = samples.entry_feature_Z, samples.entry_row_Z
    keys = {kind: keys_of(samples, kind)[row_Z] for kind in Kind}
    tokens = frequent(feature_Z, keys[Kind.TOKEN], 1, TOKENS)
    longer = (
        frequent(feature_Z, keys[kind], SEEN_TWICE, LONGER) for kind in (Kind.PAIR, Kind.SKIP)
    )
    top = frequent(feature_Z[strongest_Z], keys[Kind.TOKEN][strongest_Z], 1, NAMED)
    return Proposals(top, _promoted(promoted_FJ), _joined(tokens, *longer))


def _promoted(promoted_FJ: Integers | None) -> Atoms:
    tokens_FJ = np.empty((0, 1), dtype=np.int64) if promoted_FJ is None else promoted_FJ
    feature, place = np.nonzero(tokens_FJ[:, :NAMED] >= 0)
    key = np.uint64(Kind.NEXT << 62) | tokens_FJ[feature, place].astype(np.uint64)
    return sorted_atoms(feature.astype(np.int64), key)


def _joined(*several: Atoms) -> Atoms:
    return sorted_atoms(
        np.concatenate([each.feature_A for each in several]),
        np.concatenate([each.key_A for each in several]),
    )
