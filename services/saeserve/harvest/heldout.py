"""The held-out sequences of a harvested data set, replayed from its shards."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from saeserve.core.data.shards import open_shard
from saeserve.core.errors import DataMismatchError
from saeserve.core.specs.manifest import DatasetManifest
from saeserve.harvest.sequences import pad
from saeserve.harvest.tokenizer import Tokens


def heldout_sequences(
    folder: Path, manifest: DatasetManifest, *, max_tokens: int, batch: int
) -> Iterator[Tensor]:
    """Token batches int64 [S, T] of the held-out documents, padded with PAD, BOS as harvested.

    Read from the shards' token ids, so they are the very sequences whose activations are stored,
    whatever has become of the text. Whole sequences, spread over all held-out documents, until
    they hold `max_tokens` rows (0: all).
    Raises DataMismatchError for a data set that was not harvested or holds nothing out.
    """
    tokenization = manifest.tokenization
    if tokenization is None or not manifest.heldout_rows:
        what = "was not harvested from text" if tokenization is None else "holds no rows out"
        raise DataMismatchError(
            f"data set {manifest.name} {what}, so there are no held-out sequences to replay",
            remedy="harvest a data set with heldout_fraction above 0",
        )
    prefix = [] if tokenization.bos_token_id is None else [tokenization.bos_token_id]
    stride = max(1, manifest.heldout_rows // max_tokens) if max_tokens else 1
    spread = islice(_sequences(folder, manifest, prefix), 0, None, stride)
    stream = _within(spread, max_tokens, len(prefix))
    while part := list(islice(stream, batch)):
        yield pad(part)


def _within(sequences: Iterator[Tokens], max_tokens: int, extra: int) -> Iterator[Tokens]:
    """Sequences until they hold `max_tokens` tokens, `extra` of each not counted."""
    count = 0
    for tokens in sequences:
        yield tokens
        count += len(tokens) - extra
        if max_tokens and count >= max_tokens:
            return


def _sequences(folder: Path, manifest: DatasetManifest, prefix: list[int]) -> Iterator[Tokens]:
    """Each sequence's rows stand together and in order; only shard borders cut them."""
    current, parts = -1, [np.asarray(prefix, np.int32)]
    for sequence, tokens in _pieces(folder, manifest):
        if sequence != current and len(parts) > 1:
            yield np.concatenate(parts)
            parts = parts[:1]
        current = sequence
        parts.append(tokens)
    if len(parts) > 1:
        yield np.concatenate(parts)


def _pieces(folder: Path, manifest: DatasetManifest) -> Iterator[tuple[int, Tokens]]:
    """(sequence, its token ids) of every run of held-out rows of one sequence in one shard."""
    heldout = np.array([entry.split == "heldout" for entry in manifest.documents])
    for entry in manifest.shards:
        with open_shard(folder, entry.file) as shard:
            kept = heldout[shard.column("document")]
            sequences = shard.column("sequence")[kept]
            tokens = shard.column("token_id")[kept]
        borders = np.flatnonzero(np.diff(sequences)) + 1
        for ids, part in zip(np.split(sequences, borders), np.split(tokens, borders), strict=True):
            if len(ids):
                yield int(ids[0]), part
