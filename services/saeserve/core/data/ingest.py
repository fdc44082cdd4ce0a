"""Verifies foreign activations row by row and adopts them as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saeserve.core.data.finishing import DocumentOrigin, SourceOrigin, finish_manifest
from saeserve.core.data.inputs import InputFile, NpyFile, SafetensorsFile
from saeserve.core.data.shards import check_source_name
from saeserve.core.data.sums import with_sums
from saeserve.core.data.values import to_storage
from saeserve.core.data.writer import DatasetWriter, RowBlock
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import IngestSourceSpec, IngestSpec, StorageType
from saeserve.errors import DataError, NoSpaceError, SaeError, SpecError

RUN_ROWS = 256
"""Rows that are held out together, for want of documents."""
LEAST_RUNS = 8
"""Rows that would make two runs or one are parted into so many."""
DEFAULT_SOURCE = "activations"
_CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class IngestProgress:
    """`rows_done` of `rows` have been verified."""

    rows_done: int
    rows: int


@dataclass(frozen=True)
class IngestStopped:
    """The stop callable said so; `rows_done` rows stand on disk and need not be written again."""

    rows_done: int


@dataclass(frozen=True)
class IngestFinished:
    """All rows are in shards; `manifest` is for the caller to commit."""

    manifest: DatasetManifest


IngestEvent = IngestProgress | IngestStopped | IngestFinished


@dataclass(frozen=True)
class _Inputs:
    """Files that agree with each other; their rows follow each other."""

    files: tuple[InputFile, ...]
    widths: dict[str, int]
    dtype: StorageType

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def run_rows(self) -> int:
        """Rows of a run; the last one of a file may have fewer."""
        return RUN_ROWS if self.rows > 2 * RUN_ROWS else max(1, self.rows // LEAST_RUNS)

    @property
    def chunk_rows(self) -> int:
        """Rows to read at a time, in whole runs."""
        runs = _CHUNK_BYTES // (4 * self.run_rows * sum(self.widths.values()))
        return self.run_rows * max(1, runs)


def ingest(
    files: Sequence[Path], spec: IngestSpec, folder: Path, name: str, stop: Callable[[], bool]
) -> Iterator[IngestEvent]:
    """Write the rows of `files`, in this order, as the data set `name` in `folder`.

    Yields IngestProgress, at last IngestFinished, or IngestStopped once `stop()` is true; called
    again, it goes on after the last whole shard. Memory: a chunk of rows and two shards.
    Raises SpecError and DataError (naming file and row; no shards stay behind), NoSpaceError.
    """
    inputs = _open(files, spec)
    writer = DatasetWriter(folder, inputs.widths, inputs.dtype, spec.shard_rows)
    try:
        yield from _adopt(inputs, spec, writer, folder, name, stop)
    except NoSpaceError:
        raise
    except SaeError:
        writer.discard()
        raise


def _adopt(
    inputs: _Inputs,
    spec: IngestSpec,
    writer: DatasetWriter,
    folder: Path,
    name: str,
    stop: Callable[[], bool],
) -> Iterator[IngestEvent]:
    documents: list[DocumentOrigin] = []
    resume, done = writer.rows_done, 0
    for file, start, end in _chunks(inputs):
        if stop():
            yield IngestStopped(writer.rows_done)
            return
        tensors = file.read(start, end)
        # Rows that stand in shards already are read again for the hashes of their runs, and must
        # be what they were: one data set is not made of two versions of a file.
        skip = min(max(resume - done, 0), end - start)
        if skip:
            again = _block(inputs, file, tensors, start, 0, 0).tensors
            writer.check_same({s: x_ND[:skip] for s, x_ND in again.items()}, done, file.name)
        if skip < end - start:
            writer.add(_block(inputs, file, tensors, start, skip, len(documents)))
        documents += _runs(file.name, tensors, start, inputs.run_rows)
        done += end - start
        yield IngestProgress(done, inputs.rows)
    writer.close()
    manifest = finish_manifest(
        folder,
        name=name,
        sources=_origins(inputs, spec),
        dtype=inputs.dtype,
        shards=writer.shards,
        documents=documents,
        heldout_fraction=spec.heldout_fraction,
    )
    complete = with_sums(folder, manifest, stop)
    yield IngestStopped(writer.rows_done) if complete is None else IngestFinished(complete)


def _open(files: Sequence[Path], spec: IngestSpec) -> _Inputs:
    if not files:
        raise DataError("there are no files", remedy="upload or register .npy or .safetensors")
    sources = [entry.source for entry in spec.sources]
    if len(set(sources)) != len(sources):
        raise SpecError(
            "ingest.sources", f"a source is listed twice: {sources}", remedy="name each once"
        )
    opened = tuple(_open_file(path, spec) for path in files)
    first = opened[0]
    for source in first.widths:
        check_source_name(source, "ingest.sources")
    for other in opened[1:]:
        _check_agree(first, other, spec)
    dtype = first.dtype if spec.dtype == "keep" else spec.dtype
    return _Inputs(opened, first.widths, dtype)


def _open_file(path: Path, spec: IngestSpec) -> InputFile:
    if not path.is_file():
        raise DataError("is not a file", shard=path.name, remedy="upload or register it again")
    if path.suffix == ".safetensors":
        return SafetensorsFile(path, [(entry.tensor, entry.source) for entry in spec.sources])
    if path.suffix != ".npy":
        raise DataError(
            "is neither .npy nor .safetensors",
            shard=path.name,
            remedy="convert it to one of these; other formats may run code when read",
        )
    if len(spec.sources) > 1:
        raise SpecError(
            "ingest.sources",
            f"{len(spec.sources)} sources are asked for, but {path.name} holds one matrix",
            remedy="store several sources side by side in .safetensors",
        )
    return NpyFile(path, spec.sources[0].source if spec.sources else DEFAULT_SOURCE)


def _check_agree(first: InputFile, other: InputFile, spec: IngestSpec) -> None:
    if other.widths != first.widths:
        raise DataError(
            f"has sources {other.widths}, but {first.name} has {first.widths} (name: d)",
            shard=other.name,
            remedy="ingest files of other sources or widths as a data set of their own",
        )
    if spec.dtype == "keep" and other.dtype != first.dtype:
        raise DataError(
            f"is of type {other.dtype}, but {first.name} of {first.dtype}",
            shard=other.name,
            remedy="set ingest.dtype to the type to store",
        )


def _chunks(inputs: _Inputs) -> Iterator[tuple[InputFile, int, int]]:
    """(file, first row, end) of every chunk; a run never straddles two chunks or files."""
    for file in inputs.files:
        for start in range(0, file.rows, inputs.chunk_rows):
            yield file, start, min(start + inputs.chunk_rows, file.rows)


def _block(
    inputs: _Inputs,
    file: InputFile,
    tensors: Mapping[str, Tensor],
    start: int,
    skip: int,
    document: int,
) -> RowBlock:
    """The rows after the first `skip` of a chunk that begins at the file's row `start`."""
    checked = {
        source: to_storage(
            x_ND[skip:], inputs.dtype, source=source, file=file.name, first_row=start + skip
        )
        for source, x_ND in tensors.items()
    }
    rows = len(next(iter(tensors.values())))
    runs = (document + np.arange(skip, rows) // inputs.run_rows).astype(np.int32)
    unknown = np.full(len(runs), -1, dtype=np.int32)
    return RowBlock(checked, runs, unknown, unknown, unknown)


def _runs(
    name: str, tensors: Mapping[str, Tensor], start: int, run_rows: int
) -> Iterator[DocumentOrigin]:
    """The runs of a chunk that begins at the file's row `start`, each hashed over its bytes."""
    rows = len(next(iter(tensors.values())))
    for first in range(0, rows, run_rows):
        digest = hashlib.sha256()
        for source in sorted(tensors):
            part_ND = tensors[source][first : first + run_rows]
            digest.update(part_ND.contiguous().view(torch.uint8).numpy().data)
        last = min(start + first + run_rows, start + rows)
        yield DocumentOrigin(f"{name} rows {start + first}-{last - 1}", digest.hexdigest())


def _origins(inputs: _Inputs, spec: IngestSpec) -> list[SourceOrigin]:
    places = {entry.source: entry for entry in spec.sources}
    origins: list[SourceOrigin] = []
    for source, d in inputs.widths.items():
        place = places.get(source, IngestSourceSpec())
        layer = -1 if place.layer is None else place.layer
        origins.append(SourceOrigin(source, d, place.hook or "", layer))
    return origins
