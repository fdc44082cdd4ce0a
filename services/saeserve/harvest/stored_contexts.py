"""The held-out sequences of a data set whose rows leave out tokens, stored with its shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from saeserve.core.data.disk import create
from saeserve.core.data.shards import SHARD_FOLDER
from saeserve.core.formats.manifest import ContextsEntry, DatasetManifest
from saeserve.errors import DataError
from saeserve.harvest.sequences import TokenSequence
from saeserve.harvest.tokenizer import Tokens

FILE_TOKENS = 1 << 20
"""A file is full with so many tokens, which bounds memory."""


def write_contexts(folder: Path, sequences: Iterable[TokenSequence]) -> tuple[ContextsEntry, ...]:
    """Store tokens and numbers of `sequences` in files of at least FILE_TOKENS but the last.

    Raises NoSpaceError when the disk is full.
    """
    parts = _parts(sequences)
    return tuple(_write(folder, index, part) for index, part in enumerate(parts))


def _parts(sequences: Iterable[TokenSequence]) -> Iterator[list[TokenSequence]]:
    part: list[TokenSequence] = []
    tokens = 0
    for sequence in sequences:
        part.append(sequence)
        tokens += len(sequence.tokens)
        if tokens >= FILE_TOKENS:
            yield part
            part, tokens = [], 0
    if part:
        yield part


def _write(folder: Path, index: int, part: Sequence[TokenSequence]) -> ContextsEntry:
    lengths = [len(sequence.tokens) for sequence in part]
    numbers = np.asarray([sequence.index for sequence in part], np.int32)
    data = safetensors.numpy.save(
        {
            "sequence": np.repeat(numbers, lengths),
            "token_id": np.concatenate([sequence.tokens for sequence in part]),
        }
    )
    # Among the shards: a later attempt removes it there, and publication takes it along.
    name = f"{SHARD_FOLDER}/contexts-{index:05d}.safetensors"
    create(folder / name, data)
    digest = hashlib.sha256(data).hexdigest()
    return ContextsEntry(file=name, sequences=len(part), size_bytes=len(data), sha256=digest)


def read_contexts(folder: Path, manifest: DatasetManifest) -> Iterator[tuple[int, Tokens]]:
    """(number, tokens [T] with BOS if there is one) of every stored sequence.

    Raises DataError naming a file that is missing or was changed.
    """
    for entry in manifest.contexts or ():
        path = folder / entry.file
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DataError(
                "is missing or was changed",
                shard=entry.file,
                remedy="restore the file, or harvest the data set again",
            )
        columns = safetensors.numpy.load(data)
        numbers, tokens = columns["sequence"], columns["token_id"]
        borders = np.flatnonzero(np.diff(numbers)) + 1
        for ids, part in zip(np.split(numbers, borders), np.split(tokens, borders), strict=True):
            yield int(ids[0]), part
