"""Token ids with the features that fire on them, and the short patterns that each row ends.

A pattern is one number, so that patterns are looked up by sorting: its kind in the highest two
bits, then two token ids of 31 bits each.

| kind | the row's token is t, and |
|---|---|
| TOKEN | nothing else |
| PAIR | the token before it is a |
| SKIP | the one before that is a, whatever stands between |
| NEXT | it does not matter: the token after it is t |

TOKEN, PAIR and SKIP are N2G's (Foote et al. 2023, Neuron to Graph; OpenAI's
`sparse_autoencoder/explanations.py`): an n-gram that ends at the firing token, with a wildcard.
NEXT is what a feature predicts in place of what it reads.

Shape suffixes: T tokens of the text, N rows, Z entries (a feature that fires on a row).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from saeserve.errors import DataError

Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

TOKEN_BITS: Final = 31
ABSENT: Final = np.uint64(2**64 - 1)
"""The key of a row that no pattern of the kind can end: it would reach past its sequence."""


class Kind(IntEnum):
    """What a pattern looks at."""

    TOKEN = 0
    PAIR = 1
    SKIP = 2
    NEXT = 3

    @property
    def offsets(self) -> tuple[int | None, int]:
        """Where its two tokens are, relative to the row; the first may be none."""
        return ((None, 0), (-1, 0), (-2, 0), (None, 1))[self]


@dataclass(frozen=True)
class Text:
    """Consecutive tokens, of which some are rows with codes.

    Raises DataError where shapes or ids contradict each other.
    """

    tokens_T: Integers
    """Token ids."""
    sequence_T: Integers
    """The sequence of each token; tokens of one sequence follow each other."""
    row_N: Integers
    """Where in `tokens_T` each row is."""
    entry_row_Z: Integers
    """Index into `row_N` of each entry."""
    entry_feature_Z: Integers
    """Feature of each entry; a feature fires at most once on a row."""

    def __post_init__(self) -> None:
        _check_lengths(self)
        _check_range("token", self.tokens_T, 2**TOKEN_BITS)
        _check_range("row", self.row_N, self.tokens_T.size)
        _check_range("entry's row", self.entry_row_Z, self.row_N.size)
        _check_range("feature", self.entry_feature_Z, 2**TOKEN_BITS)


def keys_of(text: Text, kind: Kind) -> Keys:
    """The pattern of a kind at each row, [N]; ABSENT where it would leave the sequence."""
    first, second = kind.offsets
    token_N, inside_N = _at(text, second)
    keys_N = _pack(kind, np.zeros_like(token_N), token_N)
    if first is not None:
        before_N, also_N = _at(text, first)
        keys_N, inside_N = _pack(kind, before_N, token_N), inside_N & also_N
    return np.where(inside_N, keys_N, ABSENT)


def key_of(kind: Kind, first: int, second: int) -> int:
    """The key of one pattern; `first` is 0 where the kind has one token only."""
    return int(_pack(kind, np.array([first]), np.array([second]))[0])


def unpack(key: int) -> tuple[Kind, int, int]:
    """Kind, first and second token of a key."""
    mask = 2**TOKEN_BITS - 1
    return Kind(key >> 2 * TOKEN_BITS), key >> TOKEN_BITS & mask, key & mask


def last_token_of(keys: Keys) -> Keys:
    """The second token of each key, which is the row's own but for NEXT."""
    return keys & np.uint64(2**TOKEN_BITS - 1)


def kind_of(keys: Keys) -> Keys:
    """The kind of each key."""
    return keys >> np.uint64(2 * TOKEN_BITS)


def _pack(kind: Kind, first: Integers, second: Integers) -> Keys:
    shifted = first.astype(np.uint64) << np.uint64(TOKEN_BITS)
    return np.uint64(kind << 2 * TOKEN_BITS) | shifted | second.astype(np.uint64)


def _at(text: Text, offset: int) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """The token so many places after each row, and whether it is of the row's sequence."""
    place_N = text.row_N + offset
    inside_N = (place_N >= 0) & (place_N < text.tokens_T.size)
    place_N = np.where(inside_N, place_N, text.row_N)
    inside_N &= text.sequence_T[place_N] == text.sequence_T[text.row_N]
    return text.tokens_T[place_N], inside_N


def _check_lengths(text: Text) -> None:
    if text.tokens_T.shape != text.sequence_T.shape:
        raise DataError(
            f"text: {text.tokens_T.size} tokens but {text.sequence_T.size} sequence numbers; "
            "give each token one"
        )
    if text.entry_row_Z.shape != text.entry_feature_Z.shape:
        raise DataError(
            f"text: {text.entry_row_Z.size} rows of entries but {text.entry_feature_Z.size} "
            "features; give each entry both"
        )


def _check_range(name: str, values: Integers, end: int) -> None:
    if values.size and not 0 <= values.min() <= values.max() < end:
        raise DataError(
            f"text: a {name} number is {values.min()} or {values.max()}; "
            f"numbers from 0 to {end - 1} are possible"
        )
