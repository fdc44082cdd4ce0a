"""Documents as token sequences, and sequences as batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from saeserve.harvest.documents import Document
from saeserve.harvest.row_rule import EVERY_ROW, Kept, RowRule
from saeserve.harvest.tokenizer import Tokenizer, Tokens

PAD = -1
"""Padding in token batches; never a token of a vocabulary."""
WINDOW_BATCHES = 16
"""Sequences of this many batches are put in order of length together, so that few pad."""


Part = tuple[int, Tokens]
"""A document's number and tokens of it."""


@dataclass(frozen=True)
class TokenSequence:
    """One row of a token batch: parts of documents, with a BOS token in front if there is one."""

    index: int
    """Number of the sequence in the data set, from 0."""
    tokens: Tokens
    """int32 [T], BOS included."""
    documents: Tokens
    """int32 [T]: the document of each token; BOS counts to the first."""
    kept: Kept
    """bool [T]: which tokens become rows of the data set."""

    @property
    def rows(self) -> int:
        """Tokens that become rows of the data set."""
        return int(np.count_nonzero(self.kept))


@dataclass(frozen=True)
class Tokenization:
    """How a text becomes sequences, and which of their tokens rows."""

    tokenizer: Tokenizer
    context_length: int
    bos_token_id: int | None
    """Put before every sequence; None for nothing."""
    eos_token_id: int | None = None
    """Put after every document; None for nothing."""
    rule: RowRule = EVERY_ROW

    @property
    def prefix(self) -> list[int]:
        """What stands before every sequence."""
        return [] if self.bos_token_id is None else [self.bos_token_id]

    def ids(self, document: Document) -> Tokens:
        """The tokens of a document: its text, or a conversation in the chat template; ended by
        one EOS token where documents are packed."""
        if document.messages:
            ids = self.tokenizer.conversation(document.messages, self.bos_token_id)
        else:
            ids = self.tokenizer.ids(document.text)
        if self.eos_token_id is None or ids[-1:].tolist() == [self.eos_token_id]:
            return ids
        return np.append(ids, np.int32(self.eos_token_id))

    def sequences(self, document: int, first_index: int, ids: Tokens) -> Iterator[TokenSequence]:
        """Pieces of context_length tokens, BOS included; the last one may be shorter."""
        step = self.context_length - len(self.prefix)
        for number, start in enumerate(range(0, len(ids), step)):
            yield self.sequence(first_index + number, [(document, ids[start : start + step])])

    def sequence(self, index: int, parts: Sequence[Part]) -> TokenSequence:
        """One sequence of these parts, behind a BOS token if there is one."""
        front = len(self.prefix)
        tokens = np.concatenate([np.asarray(self.prefix, np.int32), *(ids for _, ids in parts)])
        counts = [len(ids) for _, ids in parts]
        counts[0] += front
        documents = np.repeat(np.asarray([document for document, _ in parts], np.int32), counts)
        return TokenSequence(index, tokens, documents, self.rule.kept(tokens, bool(front)))


def batches(sequences: Iterable[TokenSequence], size: int) -> Iterator[list[TokenSequence]]:
    """Batches of up to `size` sequences of similar length, a function of the sequences alone."""
    stream = iter(sequences)
    while window := list(islice(stream, size * WINDOW_BATCHES)):
        window.sort(key=lambda sequence: -len(sequence.tokens))
        for start in range(0, len(window), size):
            yield window[start : start + size]


def pad(batch: Iterable[Tokens]) -> Tensor:
    """One int64 tensor [S, T], padded on the right with PAD."""
    rows = [torch.as_tensor(tokens, dtype=torch.int64) for tokens in batch]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
