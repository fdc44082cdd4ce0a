"""One call as several requests: row-aligned parts, a few in flight, answers in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, Self, TypeVar

import numpy as np

from saeserve.client.errors import InvalidArgumentError
from saeserve.client.features import IntArray

IN_FLIGHT = 4

ValueT = TypeVar("ValueT")


class Divisible(Protocol):
    """Rows that can be sent in parts."""

    @property
    def rows(self) -> int:
        """How many."""
        ...

    def part(self, start: int, stop: int) -> Self:
        """Rows start .. stop."""
        ...


PartT = TypeVar("PartT", bound=Divisible)


@dataclass(frozen=True)
class Answer(Generic[ValueT]):
    """The answer to one part, and the version that gave it."""

    value: ValueT
    version: str


def each_part(
    call: Callable[[str, PartT], Answer[ValueT]],
    model: str,
    first: PartT,
    others: Callable[[ValueT], Iterator[PartT]],
) -> list[ValueT]:
    """The answers to `first`, and to the parts that `others` makes, knowing an answer.

    The first part alone resolves the reference: an alias that moves, or a version that is
    published meanwhile, would otherwise put rows of two models into one answer.
    """
    answers = _asked(call, model, first)
    version = answers[0].version
    rest = list(others(answers[0].value))
    if rest:
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            for more in pool.map(partial(_asked, call, version), rest):
                answers += more
    return [answer.value for answer in answers]


def _asked(
    call: Callable[[str, PartT], Answer[ValueT]], model: str, part: PartT
) -> list[Answer[ValueT]]:
    """The answer, or those to halves of the part where one answer is larger than a message."""
    try:
        return [call(model, part)]
    except InvalidArgumentError as error:
        if error.reason != "TOO_LARGE" or part.rows < 2:
            raise
    half = part.rows // 2
    first = _asked(call, model, part.part(0, half))
    return first + _asked(call, first[0].version, part.part(half, part.rows))


def spans(offsets: IntArray, start: int, step: int, entries: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of parts of CSR rows, each of `step` rows and about `entries` at most."""
    rows = len(offsets) - 1
    while start < rows:
        last = int(offsets[start]) + entries
        full = int(np.searchsorted(offsets, last, side="right")) - 1
        stop = min(start + step, max(start + 1, full), rows)
        yield start, stop
        start = stop
