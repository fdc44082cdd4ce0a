"""Documents as token sequences, and sequences as batches; nothing is packed across documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from saeserve.harvest.documents import Document
from saeserve.harvest.tokenizer import Tokenizer, Tokens

PAD = -1
"""Padding in token batches; never a token of a vocabulary."""
WINDOW_BATCHES = 16
"""Sequences of this many batches are put in order of length together, so that few pad."""


@dataclass(frozen=True)
class TokenSequence:
    """One row of a token batch: a piece of a document, with its BOS token if there is one."""

    document: int
    index: int
    """Number of the sequence in the data set, from 0."""
    tokens: Tokens
    first_row: int
    """1 after a BOS token, which is no row of the data set; else 0."""

    @property
    def rows(self) -> int:
        """Tokens that become rows of the data set."""
        return len(self.tokens) - self.first_row


@dataclass(frozen=True)
class Tokenization:
    """How a text becomes sequences."""

    tokenizer: Tokenizer
    context_length: int
    bos_token_id: int | None
    """Put before every sequence; None for nothing."""

    def ids(self, document: Document) -> Tokens:
        """The tokens of a document: its text, or a conversation in the chat template."""
        if document.messages:
            return self.tokenizer.conversation(document.messages, self.bos_token_id)
        return self.tokenizer.ids(document.text)

    def sequences(self, document: int, first_index: int, ids: Tokens) -> Iterator[TokenSequence]:
        """Pieces of context_length tokens, BOS included; the last one may be shorter."""
        prefix = [] if self.bos_token_id is None else [self.bos_token_id]
        step = self.context_length - len(prefix)
        for number, start in enumerate(range(0, len(ids), step)):
            tokens = np.asarray([*prefix, *ids[start : start + step]], dtype=np.int32)
            yield TokenSequence(document, first_index + number, tokens, len(prefix))


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
