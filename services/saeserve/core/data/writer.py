"""Writes rows into shards; a writer that died is resumed after its last whole shard."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from saeserve.core.data.disk import create, sha256_of
from saeserve.core.data.shards import (
    COLUMNS,
    SHARD_FOLDER,
    IntArray,
    check_source_name,
    norm_column,
    open_shard,
    shard_name,
)
from saeserve.core.data.tensor_file import STORAGE
from saeserve.core.data.values import check_norms, row_norms, to_storage
from saeserve.core.formats.manifest import ShardEntry
from saeserve.core.specs.jobs import StorageType
from saeserve.errors import DataError, SpecError


@dataclass(frozen=True)
class RowBlock:
    """N rows of every source, and where each row comes from.

    `tensors`: each source [N, d], float32 or the stored type. The rest int32 [N]: the document's
    index in the document table, its sequence, the position in the sequence and the token id;
    -1 where unknown. With `norms`, float32 [N] of each source, its rows are of the stored type and
    known to be finite.
    """

    tensors: Mapping[str, Tensor]
    document: IntArray
    sequence: IntArray
    position: IntArray
    token_id: IntArray
    norms: Mapping[str, Tensor] | None = None

    @property
    def rows(self) -> int:
        """N."""
        return len(self.document)


class DatasetWriter:
    """Cuts a stream of rows into the shards of a data set in `folder`.

    Every shard but the last holds `shard_rows` rows; each appears under its name only when it is
    whole and synced. Memory: one shard in the stored type, and one more while it is written.
    A new writer on the same folder keeps the whole shards that it finds; the caller then goes on
    with row `rows_done` of the same stream.
    """

    def __init__(
        self, folder: Path, sources: Mapping[str, int], dtype: StorageType, shard_rows: int
    ) -> None:
        """Find what was written before.

        Raises DataError for shards of another layout, SpecError for a name that is reserved.
        """
        for name in sources:
            check_source_name(name, "sources")
        if shard_rows < 1:
            raise SpecError("shard_rows", f"{shard_rows} is below 1", remedy="raise it")
        self._folder = folder
        self._sources = dict(sources)
        self._dtype: StorageType = dtype
        self._shard_rows = shard_rows
        self._shards = list(self._whole_shards())
        self._remove_others()
        self._fill = 0
        self._buffers = self._allocate()

    @property
    def shards(self) -> tuple[ShardEntry, ...]:
        """The shards that stand on disk, in order."""
        return tuple(self._shards)

    @property
    def rows_done(self) -> int:
        """Rows that stand on disk in shards; rows still in memory do not count."""
        return sum(entry.rows for entry in self._shards)

    def add(self, block: RowBlock) -> None:
        """Append the rows of `block`.

        Raises DataError naming shard and row for NaN, infinity or values beyond the stored type,
        and NoSpaceError when the disk is full.
        """
        self._check(block)
        start = 0
        while start < block.rows:
            stop = min(block.rows, start + self._shard_rows - self._fill)
            self._copy(block, start, stop)
            self._fill += stop - start
            start = stop
            if self._fill == self._shard_rows:
                self._write()

    def check_same(self, tensors: Mapping[str, Tensor], first: int, name: str) -> None:
        """Raise DataError, naming the file `name`, unless the shards on disk hold these rows of
        every source, in the stored type, from row `first` of the stream on."""
        rows = len(next(iter(tensors.values())))
        for index in range(first // self._shard_rows, -(-(first + rows) // self._shard_rows)):
            start = max(first, index * self._shard_rows)
            stop = min(first + rows, (index + 1) * self._shard_rows)
            here = slice(start - index * self._shard_rows, stop - index * self._shard_rows)
            with open_shard(self._folder, self._shards[index].file) as shard:
                for source, x_ND in tensors.items():
                    stored_ND = shard.take(source, np.arange(here.start, here.stop))
                    if not torch.equal(stored_ND, x_ND[start - first : stop - first]):
                        raise DataError(
                            f"{name} was changed since an earlier attempt had read it",
                            remedy="leave the files alone until the job has ended; submit it again",
                        )

    def close(self) -> None:
        """Write the rows that are left as the last shard. Not to be called when stopped early."""
        if self._fill:
            self._write()

    def discard(self) -> None:
        """Remove every shard: the data set has failed."""
        self._shards.clear()
        self._fill = 0
        shutil.rmtree(self._folder / SHARD_FOLDER, ignore_errors=True)

    def _whole_shards(self) -> Iterator[ShardEntry]:
        index = 0
        while (self._folder / shard_name(index)).exists():
            entry = self._entry(shard_name(index))
            # A shorter one was the last of a writer that finished; its rows come again.
            if entry.rows != self._shard_rows:
                return
            yield entry
            index += 1

    def _entry(self, name: str) -> ShardEntry:
        """Describe a shard that is on disk already, after checking its layout."""
        path = self._folder / name
        with open_shard(self._folder, name) as shard:
            shard.check_layout(self._sources, self._dtype)
            rows = shard.rows
        size = path.stat().st_size
        return ShardEntry(file=name, rows=rows, size_bytes=size, sha256=sha256_of(path))

    def _remove_others(self) -> None:
        """Remove what a writer before this one left beyond the whole shards."""
        kept = {entry.file for entry in self._shards}
        for path in (self._folder / SHARD_FOLDER).glob("*"):
            if f"{SHARD_FOLDER}/{path.name}" not in kept:
                path.unlink(missing_ok=True)

    def _allocate(self) -> dict[str, Tensor]:
        rows = self._shard_rows
        buffers = {name: torch.empty(rows, dtype=torch.int32) for name in COLUMNS}
        for source, d in self._sources.items():
            buffers[source] = torch.empty((rows, d), dtype=STORAGE[self._dtype])
            buffers[norm_column(source)] = torch.empty(rows, dtype=torch.float32)
        return buffers

    def _check(self, block: RowBlock) -> None:
        shapes = {name: tuple(x_ND.shape) for name, x_ND in block.tensors.items()}
        expected = {name: (block.rows, d) for name, d in self._sources.items()}
        columns = {name: len(getattr(block, name)) for name in COLUMNS}
        if shapes != expected or set(columns.values()) != {block.rows}:
            raise DataError(
                f"rows of shapes {shapes} and columns {columns} do not fit {expected}",
                shard=shard_name(len(self._shards)),
                row=self._fill,
                remedy="give every source and every column the same rows",
            )

    def _copy(self, block: RowBlock, start: int, stop: int) -> None:
        place = slice(self._fill, self._fill + stop - start)
        name = shard_name(len(self._shards))
        for source in block.tensors:
            part_ND, norms_N = self._stored(block, source, slice(start, stop))
            check_norms(norms_N, source=source, file=name, first_row=self._fill)
            self._buffers[source][place] = part_ND
            self._buffers[norm_column(source)][place] = norms_N
        for column in COLUMNS:
            values = np.array(getattr(block, column)[start:stop], dtype=np.int32)
            self._buffers[column][place] = torch.as_tensor(values)

    def _stored(self, block: RowBlock, source: str, rows: slice) -> tuple[Tensor, Tensor]:
        """Rows of the block in the stored type, and their norms."""
        x_ND = block.tensors[source][rows]
        if block.norms is not None:
            return x_ND, block.norms[source][rows]
        name = shard_name(len(self._shards))
        stored_ND = to_storage(x_ND, self._dtype, source=source, file=name, first_row=self._fill)
        return stored_ND, row_norms(stored_ND)

    def _write(self) -> None:
        name = shard_name(len(self._shards))
        # Bytes of our own rather than save_file: it does not report every failed write.
        data = safetensors.torch.save({key: t[: self._fill] for key, t in self._buffers.items()})
        if create(self._folder / name, data):
            sha256 = hashlib.sha256(data).hexdigest()
            entry = ShardEntry(file=name, rows=self._fill, size_bytes=len(data), sha256=sha256)
        else:
            # A fenced attempt at the same rows came first.
            entry = self._entry(name)
        self._shards.append(entry)
        self._fill = 0
