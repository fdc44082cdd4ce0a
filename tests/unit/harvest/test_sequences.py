from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.tiny_models import listed

from saeserve.harvest.contexts import ContextText, context_text
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.sequences import PAD, Tokenization, TokenSequence, batches, pad


def tokenization(model: LanguageModel, length: int, bos: int | None) -> Tokenization:
    return Tokenization(model.tokenizer, length, bos)


def sequence(index: int, length: int) -> TokenSequence:
    zeros = np.zeros(length, np.int32)
    return TokenSequence(index, zeros, zeros, np.ones(length, np.bool_))


def test_pieces_hold_every_token_once_behind_a_bos(language_model: LanguageModel) -> None:
    ids = np.arange(2, 12, dtype=np.int32)
    found = list(tokenization(language_model, 5, 0).sequences(7, 3, ids))
    assert [s.tokens.tolist() for s in found] == [[0, 2, 3, 4, 5], [0, 6, 7, 8, 9], [0, 10, 11]]
    assert [(int(s.documents[0]), s.index, s.rows) for s in found] == [
        (7, 3, 4),
        (7, 4, 4),
        (7, 5, 2),
    ]


def test_pieces_without_bos(language_model: LanguageModel) -> None:
    ids = np.arange(2, 8, dtype=np.int32)
    found = list(tokenization(language_model, 4, None).sequences(0, 0, ids))
    assert [s.tokens.tolist() for s in found] == [[2, 3, 4, 5], [6, 7]]
    assert [s.rows for s in found] == [4, 2]


def test_special_tokens_in_text_are_plain_text(language_model: LanguageModel) -> None:
    ids = language_model.tokenizer.ids
    assert ids("w0<bos>w1").tolist() == ids("unknown").tolist() == [1]


def test_padding() -> None:
    batch = pad([np.array([0, 4], np.int32), np.array([0, 5, 6], np.int32)])
    assert listed(batch) == [[0, 4, PAD], [0, 5, 6]]
    assert batch.dtype == torch.int64


@given(st.lists(st.integers(1, 9), max_size=80), st.integers(1, 3))
def test_batches_hold_each_sequence_once(lengths: list[int], size: int) -> None:
    sequences = [sequence(i, n) for i, n in enumerate(lengths)]
    found = list(batches(sequences, size))
    assert sorted(s.index for batch in found for s in batch) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in found)
    assert found == list(batches(sequences, size))


def test_batches_gather_sequences_of_similar_length() -> None:
    lengths = [3, 9, 3, 9, 3, 9]
    sequences = [sequence(i, n) for i, n in enumerate(lengths)]
    assert [[len(s.tokens) for s in b] for b in batches(sequences, 3)] == [[9] * 3, [3] * 3]


def test_context_text(language_model: LanguageModel) -> None:
    tokens = language_model.tokenizer.ids("w0 w1 w2 w3 w4").tolist()
    found = context_text(language_model.tokenizer, tokens, 2, 1)
    assert found == ContextText("w1", "w2", "w3")
    assert context_text(language_model.tokenizer, tokens, 0, 2).before == ""
    with pytest.raises(IndexError, match="position 5 is outside a sequence of 5"):
        context_text(language_model.tokenizer, tokens, 5, 1)
