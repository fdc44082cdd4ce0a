"""From written shards to a manifest: the split, exact medians, massive rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from saeserve.core.data.disk import create
from saeserve.core.data.shards import FloatArray, IndexArray, open_shard
from saeserve.core.data.splitting import Split, splits_of
from saeserve.core.formats.manifest import (
    MASSIVE_NORM,
    ContextsEntry,
    DatasetManifest,
    DocumentEntry,
    ShardEntry,
    SourceEntry,
    TokenizationEntry,
)
from saeserve.core.specs.jobs import LanguageModelSpec, StorageType
from saeserve.errors import DataError

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class SourceOrigin:
    """A source and the place in the language model that it was taken from, when known."""

    name: str
    d: int
    hook: str = ""
    layer: int = -1
    head: int | None = None


@dataclass(frozen=True)
class DocumentOrigin:
    """A document: what it is called, and the SHA-256 (hex) of its content."""

    origin: str
    sha256: str


def finish_manifest(
    folder: Path,
    *,
    name: str,
    sources: Sequence[SourceOrigin],
    dtype: StorageType,
    shards: Sequence[ShardEntry],
    documents: Sequence[DocumentOrigin],
    heldout_fraction: float,
    splits: Sequence[Split] | None = None,
    language_model: LanguageModelSpec | None = None,
    tokenization: TokenizationEntry | None = None,
    compute_dtype: Literal["float32", "bfloat16"] | None = None,
    contexts: tuple[ContextsEntry, ...] | None = None,
    job: str = "",
    code_version: str = "",
    created: str = "",
) -> DatasetManifest:
    """Describe the shards of a closed DatasetWriter; writes nothing.

    `splits` are those of the documents, where something else than their rows has decided them.
    Raises DataError where no rows or no training rows are left, where a row names a document that
    is not in `documents`, or where most rows of a source are zero.
    """
    if not shards:
        raise DataError("there are no rows", remedy="give more text or data")
    table = _document_table(folder, shards, documents, heldout_fraction, splits)
    heldout = sum(entry.rows for entry in table if entry.split == "heldout")
    rows = sum(entry.rows for entry in shards)
    if heldout == rows:
        raise DataError(
            f"all of {len(table)} documents fell into the held-out split",
            remedy="give more documents, or lower heldout_fraction (0 holds nothing out)",
        )
    return DatasetManifest(
        name=name,
        sources=tuple(_source_entry(folder, shards, source) for source in sources),
        shards=tuple(shards),
        documents=table,
        dtype=dtype,
        rows=rows,
        heldout_rows=heldout,
        language_model=language_model,
        tokenization=tokenization,
        compute_dtype=compute_dtype,
        contexts=contexts,
        job=job,
        code_version=code_version,
        created=created,
    )


def write_manifest(folder: Path, manifest: DatasetManifest) -> None:
    """Commit `manifest` in the data set's folder, where no store does it; the first one stays."""
    create(folder / MANIFEST_FILE, manifest.to_bytes())


def _document_table(
    folder: Path,
    shards: Sequence[ShardEntry],
    documents: Sequence[DocumentOrigin],
    heldout_fraction: float,
    splits: Sequence[Split] | None,
) -> tuple[DocumentEntry, ...]:
    rows = [int(count) for count in _rows_per_document(folder, shards, len(documents))]
    hashes = [document.sha256 for document in documents]
    known = splits or splits_of(hashes, rows, heldout_fraction)
    return tuple(
        DocumentEntry(origin=document.origin, sha256=document.sha256, split=split, rows=count)
        for document, split, count in zip(documents, known, rows, strict=True)
    )


def _rows_per_document(folder: Path, shards: Sequence[ShardEntry], documents: int) -> IndexArray:
    counts = np.zeros(documents, dtype=np.int64)
    for entry in shards:
        with open_shard(folder, entry.file) as shard:
            column = shard.documents(documents)
        counts += np.bincount(column, minlength=documents)
    return counts


def _source_entry(folder: Path, shards: Sequence[ShardEntry], source: SourceOrigin) -> SourceEntry:
    def columns() -> Iterator[FloatArray]:
        for entry in shards:
            with open_shard(folder, entry.file) as shard:
                yield shard.norms(source.name)

    median = exact_median(columns)
    if median <= 0:
        raise DataError(
            f"at least half of the rows of {source.name} are zero",
            remedy="leave out the rows that hold no activations",
        )
    cut = MASSIVE_NORM * median
    massive = sum(int(np.count_nonzero(norms.astype(np.float64) > cut)) for norms in columns())
    return SourceEntry(
        name=source.name,
        d=source.d,
        hook=source.hook,
        layer=source.layer,
        head=source.head,
        median_norm=median,
        massive_rows=massive,
    )


def exact_median(columns: Callable[[], Iterator[FloatArray]]) -> float:
    """Median of non-negative float32 values, exact, in memory that does not grow with them.

    `columns` is called for every pass. For an even count the mean of the two in the middle.
    """
    rows = sum(len(values) for values in columns())
    low = _select(columns, (rows - 1) // 2)
    high = low if rows % 2 else _select(columns, rows // 2)
    return (low + high) / 2


def _select(columns: Callable[[], Iterator[FloatArray]], rank: int) -> float:
    """The value of this rank, counted from 0 in ascending order.

    Bit patterns of non-negative floats ascend as the floats do: a histogram of the upper half of
    the bits finds the bin, a second one of the lower half the value in it.
    """
    upper = np.zeros(2**16, dtype=np.int64)
    for values in columns():
        upper += np.bincount(_bits(values) >> 16, minlength=2**16)
    head = int(np.searchsorted(np.cumsum(upper), rank, side="right"))
    rank -= int(upper[:head].sum())
    lower = np.zeros(2**16, dtype=np.int64)
    for values in columns():
        bits = _bits(values)
        lower += np.bincount(bits[bits >> 16 == head] & 0xFFFF, minlength=2**16)
    tail = int(np.searchsorted(np.cumsum(lower), rank, side="right"))
    return float(np.array([head << 16 | tail], dtype=np.uint32).view(np.float32)[0])


def _bits(values: FloatArray) -> IndexArray:
    return np.ascontiguousarray(values).view(np.uint32).astype(np.int64)
