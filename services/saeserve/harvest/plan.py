"""What a harvest will produce, worked out from the text before the model runs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from saeserve.core.data.finishing import DocumentOrigin
from saeserve.core.data.splitting import Split, splits_of
from saeserve.core.specs.jobs import HarvestSpec
from saeserve.errors import DataError
from saeserve.harvest.documents import Document, Resolve, read_documents
from saeserve.harvest.packing import packed
from saeserve.harvest.sequences import Tokenization, TokenSequence
from saeserve.harvest.tokenizer import Tokens

PIECES = 20
"""A text that is a single document is held out by pieces, so many at most."""


@dataclass(frozen=True)
class Plan:
    """All documents in order, and the rows that they give together."""

    documents: tuple[DocumentOrigin, ...]
    rows: int
    splits: tuple[Split, ...]
    """Split of each of `origins`."""
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

    None when asked to stop. Raises DataError for text that cannot be used or gives no train rows.
    """
    documents: list[DocumentOrigin] = []
    tokens: list[int] = []
    rows: list[int] = []
    ids = np.zeros(0, np.int32)
    for document, ids in tokenized(spec, tokenization, resolve):
        if stop():
            return None
        documents.append(DocumentOrigin(document.origin, document.sha256))
        tokens.append(len(ids))
        rows.append(_rows(tokenization, ids))
    if len(documents) > 1 and spec.packing != "none":
        # Which documents share a context depends on their splits, so rows cannot decide those.
        plan = _plan(spec, documents, tokens)
        rows = _packed_rows(spec, tokenization, resolve, plan)
        plan = dataclasses.replace(plan, rows=sum(rows))
    elif len(documents) == 1 and spec.heldout_fraction > 0:
        plan, rows = _in_pieces(spec, documents[0], tokenization, ids)
    else:
        plan = _plan(spec, documents, rows)
    _check_trainable(plan, rows, sum(tokens))
    return plan


def _plan(spec: HarvestSpec, origins: Sequence[DocumentOrigin], counts: Sequence[int]) -> Plan:
    """The plan of documents whose splits follow from their hashes and `counts`."""
    hashes = [origin.sha256 for origin in origins]
    return Plan(tuple(origins), sum(counts), splits_of(hashes, counts, spec.heldout_fraction))


def _rows(tokenization: Tokenization, ids: Tokens) -> int:
    """Rows of a document that shares its contexts with no other."""
    if tokenization.rule.keeps_all:
        return len(ids)
    return sum(sequence.rows for sequence in tokenization.sequences(0, 0, ids))


def _packed_rows(
    spec: HarvestSpec, tokenization: Tokenization, resolve: Resolve, plan: Plan
) -> list[int]:
    """Rows of each document; reads the text once more."""
    counts = np.zeros(len(plan.documents), np.int64)
    for sequence in planned_sequences(spec, tokenization, resolve, plan):
        counts += np.bincount(sequence.documents[sequence.kept], minlength=len(counts))
    return [int(count) for count in counts]


def _in_pieces(
    spec: HarvestSpec, document: DocumentOrigin, tokenization: Tokenization, ids: Tokens
) -> tuple[Plan, list[int]]:
    """The plan of a single document in pieces of whole sequences, and their rows; as it is where
    there is one sequence only."""
    sequences = list(tokenization.sequences(0, 0, ids))
    rows = [sequence.rows for sequence in sequences]
    if len(rows) < 2:
        return _plan(spec, [document], rows), rows
    size = -(-len(rows) // PIECES)
    starts = range(0, len(rows), size)
    step = tokenization.context_length - len(tokenization.prefix)
    pieces = [
        _piece(document, ids, step * start, min(len(ids), step * (start + size)))
        for start in starts
    ]
    counts = [sum(rows[start : start + size]) for start in starts]
    plan = _plan(spec, pieces, counts)
    cut = dataclasses.replace(
        plan, documents=(document,), pieces=tuple(pieces), piece_sequences=size
    )
    return cut, counts


def _piece(document: DocumentOrigin, ids: Tokens, start: int, end: int) -> DocumentOrigin:
    sha256 = hashlib.sha256(ids[start:end].tobytes()).hexdigest()
    return DocumentOrigin(f"{document.origin} tokens {start}-{end - 1}", sha256)


def _check_trainable(plan: Plan, rows: Sequence[int], tokens: int) -> None:
    if tokens and not plan.rows:
        raise DataError(
            f"special_token_rows, position_start and position_stop leave out all {tokens} tokens",
            remedy="store the rows of special tokens, or those of more positions",
        )
    if not any(count for split, count in zip(plan.splits, rows, strict=True) if split == "train"):
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
    """The sequences of the surveyed documents that have rows; raises DataError if a text changed
    meanwhile."""
    documents = _unchanged(spec, tokenization, resolve, plan)
    if spec.packing != "none" and len(plan.documents) > 1:
        joined = spec.packing == "joined"
        found = packed(documents, plan.splits, tokenization, joined=joined)
    else:
        found = _unpacked(documents, tokenization, plan)
    return (sequence for sequence in found if sequence.rows)


def heldout_of(plan: Plan, sequences: Iterable[TokenSequence]) -> Iterator[TokenSequence]:
    """Sequences of held-out documents; a sequence's documents are all of one split."""
    return (
        sequence for sequence in sequences if plan.splits[int(sequence.documents[0])] == "heldout"
    )


def _unpacked(
    documents: Iterable[tuple[int, Tokens]], tokenization: Tokenization, plan: Plan
) -> Iterator[TokenSequence]:
    index = 0
    for number, ids in documents:
        for own, sequence in enumerate(tokenization.sequences(number, index, ids)):
            place = np.full_like(sequence.documents, plan.place(number, own))
            yield dataclasses.replace(sequence, documents=place)
            index += 1


def _unchanged(
    spec: HarvestSpec, tokenization: Tokenization, resolve: Resolve, plan: Plan
) -> Iterator[tuple[int, Tokens]]:
    """Numbers and tokens of the documents that the plan was made of."""
    for number, (document, ids) in enumerate(tokenized(spec, tokenization, resolve)):
        if number >= len(plan.documents) or document.sha256 != plan.documents[number].sha256:
            raise DataError(
                f"{document.origin} changed while it was harvested",
                remedy="harvest again from text that nobody writes to",
            )
        yield number, ids
