"""What a harvest will produce, worked out from the text before the model runs."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saeserve.core.data.finishing import DocumentOrigin, splits_of
from saeserve.core.errors import DataError, NoSpaceError
from saeserve.core.specs.jobs import HarvestSpec
from saeserve.harvest.documents import Document, Resolve, read_documents
from saeserve.harvest.sequences import Tokenization, TokenSequence
from saeserve.harvest.tokenizer import Tokens

VALUE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
ROW_INTEGERS = 4
"""int32 a row: document, sequence, position, token id."""
PIECES = 20
"""A text that is a single document is held out by pieces, so many at most."""


@dataclass(frozen=True)
class Plan:
    """All documents in order, and the rows that they give together."""

    documents: tuple[DocumentOrigin, ...]
    rows: int
    pieces: tuple[DocumentOrigin, ...] = ()
    """Runs of sequences that stand for a single document, since none could be held out else."""
    piece_sequences: int = 0
    """Sequences of each piece; the last may have fewer."""

    @property
    def origins(self) -> tuple[DocumentOrigin, ...]:
        """What rows name as their documents."""
        return self.pieces or self.documents

    def place(self, document: int, sequence: int) -> int:
        """Index in `origins` of a sequence, given by its document and its number in it."""
        return sequence // self.piece_sequences if self.pieces else document


def survey(
    spec: HarvestSpec, tokenization: Tokenization, resolve: Resolve, stop: Callable[[], bool]
) -> Plan | None:
    """Read and tokenise all text once: finds bad text early and counts the rows.

    None when told to stop. Raises DataError for text that cannot be used or gives no train rows.
    """
    documents: list[DocumentOrigin] = []
    counts: list[int] = []
    ids = np.zeros(0, np.int32)
    for document, ids in tokenized(spec, tokenization, resolve):
        if stop():
            return None
        documents.append(DocumentOrigin(document.origin, document.sha256))
        counts.append(len(ids))
    plan = Plan(tuple(documents), sum(counts))
    if len(documents) == 1 and spec.heldout_fraction > 0:
        plan, counts = _in_pieces(plan, tokenization, ids)
    _check_trainable(plan, counts, spec.heldout_fraction)
    return plan


def _in_pieces(plan: Plan, tokenization: Tokenization, ids: Tokens) -> tuple[Plan, list[int]]:
    """The plan of a single document in pieces of whole sequences, and their rows; as it is where
    there is one sequence only."""
    (document,) = plan.documents
    rows = [sequence.rows for sequence in tokenization.sequences(0, 0, ids)]
    if len(rows) < 2:
        return plan, [plan.rows]
    size = -(-len(rows) // PIECES)
    counts = [sum(rows[start : start + size]) for start in range(0, len(rows), size)]
    ends = np.cumsum(counts)
    pieces = tuple(
        DocumentOrigin(
            f"{document.origin} tokens {end - count}-{end - 1}",
            hashlib.sha256(ids[end - count : end].tobytes()).hexdigest(),
        )
        for end, count in zip(ends, counts, strict=True)
    )
    return dataclasses.replace(plan, pieces=pieces, piece_sequences=size), counts


def _check_trainable(plan: Plan, rows: Sequence[int], heldout_fraction: float) -> None:
    splits = splits_of([origin.sha256 for origin in plan.origins], rows, heldout_fraction)
    if not any(count for split, count in zip(splits, rows, strict=True) if split == "train"):
        raise DataError(
            f"{len(plan.origins)} documents give {plan.rows} tokens and none of them for training",
            remedy="add documents (lines and jsonl make one of every line) or lower "
            "heldout_fraction",
        )


def tokenized(
    spec: HarvestSpec, tokenization: Tokenization, resolve: Resolve
) -> Iterator[tuple[Document, Tokens]]:
    """Documents and their token ids; the last is cut where max_tokens is reached (0: never)."""
    left = spec.max_tokens or None
    for document in read_documents(spec.texts, resolve):
        ids = tokenization.ids(document)[:left]
        yield document, ids
        if left is not None:
            left -= len(ids)
            if left == 0:
                return


def planned_sequences(
    spec: HarvestSpec, tokenization: Tokenization, resolve: Resolve, plan: Plan
) -> Iterator[TokenSequence]:
    """The sequences of the surveyed documents; raises DataError if a text changed meanwhile."""
    index = 0
    for number, (document, ids) in enumerate(tokenized(spec, tokenization, resolve)):
        if number >= len(plan.documents) or document.sha256 != plan.documents[number].sha256:
            raise DataError(
                f"{document.origin} changed while it was harvested",
                remedy="harvest again from text that nobody writes to",
            )
        for own, sequence in enumerate(tokenization.sequences(number, index, ids)):
            yield dataclasses.replace(sequence, document=plan.place(number, own))
            index += 1


def estimate_bytes(spec: HarvestSpec, d_by_source: Mapping[str, int], rows: int) -> int:
    """Bytes that `rows` rows take on disk: values, one float32 norm a source, four int32."""
    values = sum(d_by_source.values()) * VALUE_BYTES[spec.dtype]
    return rows * (values + 4 * len(d_by_source) + 4 * ROW_INTEGERS)


def check_space(folder: Path, needed: int) -> None:
    """Raise NoSpaceError, with both numbers, where `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NoSpaceError(
            f"the harvest needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free",
            remedy="free the space, lower max_tokens, or harvest fewer sites",
        )
