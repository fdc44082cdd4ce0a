"""Places the rows of a data set in a bundle's token file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saeserve.core.data.shards import IntArray
from saeserve.core.features.schema import GAP

_NO_SEQUENCE = -2
"""Before the first row; -1 is a data set's word for an unknown sequence."""


class Placed(NamedTuple):
    """B rows: where each stands in the token file, and the number of its sequence in the pass."""

    place_B: npt.NDArray[np.int64]
    sequence_B: npt.NDArray[np.int64]


class TokenLayout:
    """The token file as it grows: rows of a sequence stand together, in the order of positions,
    and tokens between them that are not rows become one GAP."""

    def __init__(self) -> None:
        self._tokens: list[IntArray] = []
        self._sequences: list[npt.NDArray[np.int64]] = []
        self.size = 0
        self._count = 0
        self._last = (_NO_SEQUENCE, 0)

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """int32 [size], as in `tokens.npy`."""
        return np.concatenate([np.zeros(0, np.int32), *self._tokens])

    @property
    def sequences(self) -> npt.NDArray[np.int64]:
        """int64 [sequences, 3], as in `sequences.npy`."""
        return np.concatenate([np.zeros((0, 3), np.int64), *self._sequences])

    def end_of(self, rows: int) -> int:
        """Size of the token file that holds the first `rows` rows, which end a sequence."""
        return int(np.searchsorted(np.cumsum(self.tokens != GAP), rows)) + 1 if rows else 0

    def add(
        self, document_B: IntArray, sequence_B: IntArray, position_B: IntArray, token_B: IntArray
    ) -> Placed:
        """Place the next rows, in the order of storage."""
        before_B = np.concatenate([[self._last[0]], sequence_B[:-1]])
        behind_B = np.concatenate([[self._last[1]], position_B[:-1]]) + 1
        new_B = sequence_B != before_B
        gap_B = ~new_B & (position_B != behind_B)
        offset_B = np.arange(len(token_B)) + np.cumsum(gap_B)
        place_B = self.size + offset_B
        tokens = np.full(int(offset_B[-1]) + 1 if len(offset_B) else 0, GAP, np.int32)
        tokens[offset_B] = token_B
        self._tokens.append(tokens)
        starts = (place_B[new_B], document_B[new_B], sequence_B[new_B])
        self._sequences.append(np.stack(starts, axis=1).astype(np.int64))
        number_B = self._count - 1 + np.cumsum(new_B)
        self.size += len(tokens)
        self._count += int(new_B.sum())
        if len(token_B):
            self._last = (int(sequence_B[-1]), int(position_B[-1]))
        return Placed(place_B, number_B)
