"""Codes of whole sequences as one block, sorted by feature.

Shape suffixes: B rows, N entries (one firing of one feature), Q sequences of the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeserve.core.features.state import CollectSettings
from saeserve.errors import DataError

BLOCK_ROWS = 65_536
"""Rows a block by default. Each block passes over the state of all features once, so that a large
block costs less a row; a block holds all entries of its rows."""


@dataclass(frozen=True)
class Block:
    """Codes of whole sequences, rows in the order of their positions; entries by row.

    `latent_N` and `value_N` of row i are at offset_B1[i] .. offset_B1[i + 1].
    """

    offset_B1: npt.NDArray[np.int64]
    latent_N: npt.NDArray[np.int32]
    value_N: npt.NDArray[np.float32]
    position_B: npt.NDArray[np.int64]
    """Places in the token file, rising."""
    token_B: npt.NDArray[np.int32]
    sequence_B: npt.NDArray[np.int64]
    """Number of the row's sequence in the block, 0 .. Q - 1, rising."""
    bound_Q2: npt.NDArray[np.int64]
    """First place of each sequence in the token file, and the one behind its last."""

    @property
    def rows(self) -> int:
        """How many tokens stand in it, encoded or not."""
        return len(self.position_B)

    def check(self, settings: CollectSettings) -> None:
        """Raise DataError for a code that cannot be counted, naming row and feature."""
        wrong_N = ~(np.abs(self.value_N) < settings.largest)
        if wrong_N.any():
            entry = int(np.argmax(wrong_N))
            row = int(np.searchsorted(self.offset_B1, entry, "right")) - 1
            raise DataError(
                f"feature {self.latent_N[entry]} has the activation {self.value_N[entry]} at place "
                f"{self.position_B[row]} of the tokens; it must be a number below "
                f"{settings.largest:g}",
                remedy="check the model and the rows of the data set",
            )

    def without_zeros(self) -> Block:
        """The same block without entries of value 0, which are not firings."""
        fires_N = self.value_N != 0
        if fires_N.all():
            return self
        before = np.concatenate([[0], np.cumsum(fires_N)])
        return Block(
            before[self.offset_B1],
            self.latent_N[fires_N],
            self.value_N[fires_N],
            self.position_B,
            self.token_B,
            self.sequence_B,
            self.bound_Q2,
        )
