"""Tokens as readable text, for showing where a feature fires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saeserve.harvest.tokenizer import Tokenizer


@dataclass(frozen=True)
class ContextText:
    """A token between the text before and after it."""

    before: str
    token: str
    after: str


def context_text(
    tokenizer: Tokenizer, tokens: Sequence[int], position: int, width: int
) -> ContextText:
    """Up to `width` tokens on either side of `tokens[position]`, and that token.

    Half a character (byte-level tokens may hold one) shows as U+FFFD.
    """
    if not 0 <= position < len(tokens):
        raise IndexError(f"position {position} is outside a sequence of {len(tokens)} tokens")
    end = position + 1
    return ContextText(
        tokenizer.text(tokens[max(0, position - width) : position]),
        tokenizer.text(tokens[position:end]),
        tokenizer.text(tokens[end : end + width]),
    )
