"""Stored rows of a data set, encoded, as blocks of whole sequences.

Shape suffixes: B rows, N entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from saeserve.core.data.dataset import ShardedDataset, take_columns
from saeserve.core.data.shards import COLUMNS, Shard
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.features.blocks import BLOCK_ROWS, Block
from saeserve.core.features.layout import Placed, TokenLayout
from saeserve.core.features.schema import GAP
from saeserve.errors import DataError

ENCODED_ROWS = 2048
"""Rows encoded at a time, counted from the start of their shard: a resumed pass encodes the same
rows together, and so gets the same bits."""


@dataclass(frozen=True)
class RowSource:
    """What is read, and what encodes it."""

    dataset: ShardedDataset
    sources: tuple[str, ...]
    model: InferenceModel
    norm_cut: float
    """Rows above so many median norms are not encoded (0: all are)."""
    max_rows: int = 0
    """The pass ends after the sequence in which it has seen so many rows (0: after the last)."""
    block_rows: int = BLOCK_ROWS


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one shard, encoded; those of massive norm have no entries."""

    first: int
    """Number of its first row in the data set."""
    placed: Placed
    token_B: npt.NDArray[np.int32]
    kept_B: npt.NDArray[np.bool_]
    count_B: npt.NDArray[np.int64]
    latent_N: npt.NDArray[np.int32]
    value_N: npt.NDArray[np.float32]

    def rows(self, start: int, stop: int) -> Piece:
        """The part from `start` to `stop`, counted from its first."""
        part = slice(start, stop)
        first, last = int(self.count_B[:start].sum()), int(self.count_B[:stop].sum())
        return Piece(
            self.first + start,
            Placed(self.placed.place_B[part], self.placed.sequence_B[part]),
            self.token_B[part],
            self.kept_B[part],
            self.count_B[part],
            self.latent_N[first:last],
            self.value_N[first:last],
        )


@dataclass(frozen=True)
class RowBlock:
    """A block, and how far the pass is behind it."""

    block: Block
    rows_done: int
    """Rows of the data set that this block and those before it hold."""
    kept: int
    """Rows of the block that were encoded."""


def blocks(source: RowSource, layout: TokenLayout, begin: int = 0) -> Iterator[RowBlock]:
    """Blocks of the rows from row `begin` on, which is the first of a sequence; `layout` gets all
    rows of the pass, those before `begin` too.

    Raises DataError for rows without token ids.
    """
    waiting: list[Piece] = []
    for piece in _pieces(source, layout, begin):
        if not waiting and source.max_rows and piece.first >= source.max_rows:
            return  # the pass had ended before it was stopped
        last = bool(source.max_rows) and piece.first + len(piece.token_B) >= source.max_rows
        waiting.append(piece)
        if sum(len(each.token_B) for each in waiting) >= source.block_rows or last:
            whole, rest = _cut(waiting, source.max_rows if last else 0)
            if whole:
                yield _block(whole)
            if last and whole:
                return
            waiting = rest
    if waiting:
        yield _block(waiting)


def _pieces(source: RowSource, layout: TokenLayout, begin: int) -> Iterator[Piece]:
    first = 0
    for index, entry in enumerate(source.dataset.manifest.shards):
        with source.dataset.shard(index) as shard:
            columns = [shard.column(name) for name in COLUMNS]
            check_tokens(shard, columns)
            kept_B = _kept(source, shard)
            for start in range(0, entry.rows, ENCODED_ROWS):
                part = slice(start, min(start + ENCODED_ROWS, entry.rows))
                placed = layout.add(*(column[part] for column in columns))
                if first + part.stop > begin:
                    piece = _encoded(source, shard, part, kept_B[part], placed, first + start)
                    yield piece.rows(max(0, begin - piece.first), len(piece.token_B))
        first += entry.rows


def check_tokens(shard: Shard, columns: Sequence[npt.NDArray[np.int32]]) -> None:
    """Raise DataError for a shard of which some row's place or token (COLUMNS) is not known."""
    for name, column in zip(COLUMNS, columns, strict=True):
        unknown = np.flatnonzero(column < 0)
        if unknown.size:
            raise DataError(
                f"its {name} is not known, so what features fire on cannot be shown",
                shard=shard.name,
                row=int(unknown[0]),
                remedy="collect from a data set that was harvested from text",
            )


def _kept(source: RowSource, shard: Shard) -> npt.NDArray[np.bool_]:
    """Which rows of a shard are encoded."""
    kept_B = np.zeros(shard.rows, np.bool_)
    for split in ("train", "heldout"):
        kept_B[source.dataset.kept(shard, source.sources, split, source.norm_cut)] = True
    return kept_B


def _encoded(
    source: RowSource,
    shard: Shard,
    part: slice,
    kept_B: npt.NDArray[np.bool_],
    placed: Placed,
    first: int,
) -> Piece:
    indices = part.start + np.flatnonzero(kept_B)
    x_BD = take_columns(shard, source.sources, indices).float()
    found = source.model.encode(x_BD).to(torch.device("cpu"))
    count_B = np.zeros(len(kept_B), np.int64)
    count_B[kept_B] = found.offsets.diff().numpy()
    return Piece(
        first,
        placed,
        shard.column("token_id")[part],
        kept_B,
        count_B,
        found.latents.numpy().astype(np.int32),
        found.values.float().numpy(),
    )


def _cut(pieces: list[Piece], wanted: int) -> tuple[list[Piece], list[Piece]]:
    """The pieces up to the end of a sequence, and what follows: the last end that there is, or the
    first behind row `wanted` (0: none is wanted)."""
    sequence_B = np.concatenate([piece.placed.sequence_B for piece in pieces])
    ends = np.flatnonzero(np.diff(sequence_B)) + 1
    if wanted:
        ends = ends[ends >= wanted - pieces[0].first][:1]
    if not ends.size:
        return [], pieces
    return _split(pieces, int(ends[-1]))


def _split(pieces: list[Piece], at: int) -> tuple[list[Piece], list[Piece]]:
    whole: list[Piece] = []
    rest: list[Piece] = []
    for piece in pieces:
        size = len(piece.token_B)
        here = min(max(at, 0), size)
        whole += [piece.rows(0, here)] if here else []
        rest += [piece.rows(here, size)] if here < size else []
        at -= size
    return whole, rest


def _block(pieces: Sequence[Piece]) -> RowBlock:
    kept_B = np.concatenate([piece.kept_B for piece in pieces])
    token_B = np.concatenate([piece.token_B for piece in pieces])
    place_B = np.concatenate([piece.placed.place_B for piece in pieces])
    sequence_B = np.concatenate([piece.placed.sequence_B for piece in pieces])
    firsts = np.flatnonzero(np.diff(sequence_B, prepend=-1))
    ends = np.append(place_B[firsts[1:]], place_B[-1] + 1)
    counts = np.concatenate([piece.count_B for piece in pieces])
    block = Block(
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([piece.latent_N for piece in pieces]),
        np.concatenate([piece.value_N for piece in pieces]),
        place_B,
        # A row that was not encoded does not count for its token.
        np.where(kept_B, token_B, np.int32(GAP)).astype(np.int32),
        sequence_B - sequence_B[0],
        np.stack([place_B[firsts], ends], axis=1),
    )
    done = pieces[-1].first + len(pieces[-1].token_B)
    return RowBlock(block, done, int(kept_B.sum()))
