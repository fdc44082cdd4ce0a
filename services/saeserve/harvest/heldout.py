"""The held-out sequences of a harvested data set, as they were run through the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from saeserve.core.data.shards import open_shard
from saeserve.core.formats.manifest import DatasetManifest, TokenizationEntry
from saeserve.errors import DataMismatchError
from saeserve.harvest.row_rule import RowRule
from saeserve.harvest.sequences import pad
from saeserve.harvest.stored_contexts import read_contexts
from saeserve.harvest.tokenizer import Tokens


def heldout_sequences(
    folder: Path, manifest: DatasetManifest, *, max_tokens: int, batch: int
) -> Iterator[Tensor]:
    """Token batches int64 [S, T] of the held-out documents, padded with PAD, BOS as harvested.

    Read from the shards' token ids, or where those are not all of the tokens, from the stored
    contexts: they are the very sequences whose activations are stored, whatever has become of the
    text. Whole sequences, spread over all held-out documents, until
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
    stride = max(1, manifest.heldout_rows // max_tokens) if max_tokens else 1
    rule, bos = RowRule.of(tokenization), tokenization.bos_token_id is not None
    spread = islice(_sequences(folder, manifest, tokenization), 0, None, stride)
    stream = _within(spread, max_tokens, lambda tokens: int(rule.kept(tokens, bos).sum()))
    while part := list(islice(stream, batch)):
        yield pad(part)


def _within(
    sequences: Iterator[Tokens], max_tokens: int, rows: Callable[[Tokens], int]
) -> Iterator[Tokens]:
    """Sequences until they hold `max_tokens` rows."""
    count = 0
    for tokens in sequences:
        yield tokens
        count += rows(tokens)
        if max_tokens and count >= max_tokens:
            return


def _sequences(
    folder: Path, manifest: DatasetManifest, tokenization: TokenizationEntry
) -> Iterator[Tokens]:
    if manifest.contexts is not None:
        return (tokens for _, tokens in read_contexts(folder, manifest))
    bos = tokenization.bos_token_id
    return _replayed(folder, manifest, [] if bos is None else [bos])


def _replayed(folder: Path, manifest: DatasetManifest, prefix: list[int]) -> Iterator[Tokens]:
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
