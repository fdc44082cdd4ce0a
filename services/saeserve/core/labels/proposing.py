"""Which patterns may label a feature: read off samples of where it fires, and its logit weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeserve.core.labels.atoms import Atoms, frequent, sorted_atoms
from saeserve.core.labels.text import TOKEN_BITS, Integers, Kind, Text, keys_of

TOKENS = 16
"""Tokens of a feature that are looked at: those on which most of its samples fire."""
LONGER = 12
"""Pairs of a feature, and as many pairs with a token between."""
SEEN_TWICE = 2
"""Samples that a longer pattern must have: what was seen once describes one place."""
NAMED = 10
"""Tokens that the labels of most active and of promoted tokens have at most."""
PATTERNS = TOKENS + 2 * LONGER + 2 * NAMED
"""Patterns of a feature, at most."""


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


def propose(samples: Text, strongest_Z: np.ndarray) -> Proposals:
    """Proposals for all features of `samples`, whose rows and entries are where features fire;
    none is by promoted tokens.

    `strongest_Z` marks the entries that are among the largest activations of their feature.
    """
    feature_Z, row_Z = samples.entry_feature_Z, samples.entry_row_Z
    keys = {kind: keys_of(samples, kind)[row_Z] for kind in Kind}
    tokens = frequent(feature_Z, keys[Kind.TOKEN], 1, TOKENS)
    longer = (
        frequent(feature_Z, keys[kind], SEEN_TWICE, LONGER) for kind in (Kind.PAIR, Kind.SKIP)
    )
    top = frequent(feature_Z[strongest_Z], keys[Kind.TOKEN][strongest_Z], 1, NAMED)
    return Proposals(top, _joined(), _joined(tokens, *longer))


def join(parts: Sequence[Proposals], promoted_FJ: npt.NDArray[np.integer] | None) -> Proposals:
    """Proposals of several parts of the features as one.

    Row f of `promoted_FJ` has the tokens that feature f raises most, largest first, where they are
    known; -1 is not a token. A feature without samples gets none of them.
    """
    patterns = _joined(*(part.patterns for part in parts))
    promoted = _promoted(promoted_FJ, np.unique(patterns.feature_A))
    return Proposals(_joined(*(part.top_tokens for part in parts)), promoted, patterns)


def _promoted(promoted_FJ: npt.NDArray[np.integer] | None, sampled: Integers) -> Atoms:
    if promoted_FJ is None:
        return _joined()
    token_CJ = promoted_FJ[sampled, :NAMED].astype(np.int64)
    row, place = np.nonzero(token_CJ >= 0)
    key = np.uint64(Kind.NEXT << 2 * TOKEN_BITS) | token_CJ[row, place].astype(np.uint64)
    return sorted_atoms(sampled[row], key)


def _joined(*several: Atoms) -> Atoms:
    features, keys = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    return sorted_atoms(
        np.concatenate([features, *(each.feature_A for each in several)]),
        np.concatenate([keys, *(each.key_A for each in several)]),
    )
