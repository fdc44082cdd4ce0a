"""Held-out rows of a data set, encoded, as the texts on which labels are chosen and scored.

Shape suffixes: H held-out rows of a shard, encoded or not; N those that are; Z entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from saeserve.core.data.dataset import take_columns
from saeserve.core.data.shards import COLUMNS, IndexArray, IntArray, Shard
from saeserve.core.features.keys import mixed, seed_key
from saeserve.core.features.rows import ENCODED_ROWS, RowSource, check_tokens
from saeserve.core.labels.text import Text

Moved = Callable[[], object]
"""Called before each text; may raise, to stop."""


@dataclass(frozen=True)
class Heldout:
    """Held-out rows, at most `max_rows` (0: all) spread evenly over the shards, in two halves of
    whole documents that a seed decides; of whole sequences where one document alone is held out.

    Rows of massive norm are not encoded, and patterns see their tokens. A pattern does not reach
    over tokens without rows, nor over the end of a shard.
    """

    source: RowSource
    max_rows: int
    seed: int

    @property
    def by(self) -> Literal["document", "sequence"]:
        """What halves are made of."""
        return "document" if np.count_nonzero(self._rows_of_document) > 1 else "sequence"

    def texts(self, half: Literal[0, 1], moved: Moved) -> Iterator[Text]:
        """One half, in texts of at most ENCODED_ROWS rows. Raises DataError for rows without
        token ids."""
        for shard, index_N in self._parts():
            own_N = index_N[self._halves(shard, index_N) == half]
            text_of = _texts(self, shard)
            for first in range(0, len(own_N), ENCODED_ROWS):
                moved()
                yield text_of(own_N[first : first + ENCODED_ROWS])

    def _parts(self) -> Iterator[tuple[Shard, IndexArray]]:
        source = self.source
        return source.dataset.spread(source.sources, "heldout", source.norm_cut, self.max_rows)

    @cached_property
    def _rows_of_document(self) -> npt.NDArray[np.int64]:
        documents = len(self.source.dataset.manifest.documents)
        total = np.zeros(documents, np.int64)
        for shard, index_N in self._parts():
            total += np.bincount(shard.column("document")[index_N], minlength=documents)
        return total

    @cached_property
    def _half_of_document(self) -> npt.NDArray[np.int64]:
        """By random keys, documents go to the first half until it has half of the rows."""
        rows = self._rows_of_document
        order = np.argsort(_keys(self.seed, np.arange(len(rows))))
        before = np.cumsum(rows[order]) - rows[order]
        halves = np.zeros(len(rows), np.int64)
        halves[order] = 2 * before + rows[order] > rows.sum()
        return halves

    def _halves(self, shard: Shard, index_N: IndexArray) -> npt.NDArray[np.int64]:
        if self.by == "document":
            return self._half_of_document[shard.column("document")[index_N]]
        sequence_N = shard.column("sequence")[index_N]
        return (_keys(self.seed, sequence_N) & np.uint64(1)).astype(np.int64)


def _keys(seed: int, numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    return mixed(seed_key(seed) ^ numbers.astype(np.uint64))


def _texts(heldout: Heldout, shard: Shard) -> Callable[[IndexArray], Text]:
    """Makes the text of some rows of a shard, whose tokens are read once."""
    source = heldout.source
    held_H = source.dataset.kept(shard, source.sources, "heldout", 0.0)
    columns = [shard.column(name)[held_H] for name in COLUMNS]
    check_tokens(shard, columns)
    _, sequence_H, position_H, token_H = columns
    runs_H = _runs(sequence_H, position_H)

    def text_of(index_N: IndexArray) -> Text:
        x_ND = take_columns(shard, source.sources, index_N).float()
        found = source.model.encode(x_ND).to(torch.device("cpu"))
        row_Z = np.repeat(np.arange(len(index_N)), found.offsets.diff().numpy())
        fires_Z = found.values.float().numpy() != 0
        latent_Z = found.latents.numpy().astype(np.int64)[fires_Z]
        row_N = np.searchsorted(held_H, index_N)
        return Text(token_H.astype(np.int64), runs_H, row_N, row_Z[fires_Z], latent_Z)

    return text_of


def _runs(sequence_H: IntArray, position_H: IntArray) -> npt.NDArray[np.int64]:
    """Numbers of the runs of tokens that stood side by side."""
    new_H = np.ones(len(sequence_H), np.bool_)
    new_H[1:] = (sequence_H[1:] != sequence_H[:-1]) | (np.diff(position_H) != 1)
    return np.cumsum(new_H, dtype=np.int64)
