"""Several documents in one context, each split by itself, so that held-out text stays apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from saeserve.core.data.finishing import Split
from saeserve.harvest.sequences import Part, Tokenization, TokenSequence
from saeserve.harvest.tokenizer import Tokens


def packed(
    documents: Iterable[tuple[int, Tokens]],
    splits: Sequence[Split],
    tokenization: Tokenization,
    *,
    joined: bool,
) -> Iterator[TokenSequence]:
    """Sequences of full contexts; only the last context of each split may be shorter.

    `documents` are numbers and tokens, `splits` their splits by number. `joined` makes one
    sequence of a context, in which a document attends to those before it. Otherwise every part
    becomes a sequence of its own, which is what a mask between the parts and positions counted
    from each part's start amount to, for any model.
    """
    number = count()
    for context in _contexts(documents, splits, tokenization, joined):
        for parts in [context] if joined else [[part] for part in context]:
            yield tokenization.sequence(next(number), parts)


def _contexts(
    documents: Iterable[tuple[int, Tokens]],
    splits: Sequence[Split],
    tokenization: Tokenization,
    joined: bool,
) -> Iterator[list[Part]]:
    front = len(tokenization.prefix)
    packers = {split: _Packer(tokenization.context_length, front, joined) for split in splits}
    for document, ids in documents:
        yield from packers[splits[document]].add(document, ids)
    for packer in packers.values():
        yield from packer.take()


class _Packer:
    """Cuts the documents of one split where a context is full."""

    def __init__(self, length: int, front: int, joined: bool) -> None:
        self._length = length
        self._front = front
        self._joined = joined
        self._parts: list[Part] = []
        self._used = 0

    def add(self, document: int, ids: Tokens) -> Iterator[list[Part]]:
        """The contexts that `ids` fill."""
        while len(ids):
            front = 0 if self._joined and self._parts else self._front
            room = self._length - self._used - front
            if room < 1:
                yield from self.take()
                continue
            part, ids = ids[:room], ids[room:]
            self._parts.append((document, part))
            self._used += front + len(part)

    def take(self) -> Iterator[list[Part]]:
        """The context that was begun, if any."""
        if self._parts:
            yield self._parts
        self._parts, self._used = [], 0
