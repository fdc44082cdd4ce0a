"""How rows of entries (CSR) are cut and joined: the arithmetic on offsets, for numpy and torch.

Entries of row r are those at offsets[r] .. offsets[r + 1]; offsets are int64 and begin at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Offsets = TypeVar("Offsets")


def cut(offsets: Offsets, start: int, stop: int) -> tuple[Offsets, slice]:
    """The offsets of rows start .. stop as rows of their own, and which entries those are."""
    numbers: Any = offsets
    first, last = int(numbers[start]), int(numbers[stop])
    return numbers[start : stop + 1] - first, slice(first, last)


def joined(parts: Sequence[Offsets], concatenate: Callable[[list[Any]], Offsets]) -> Offsets:
    """The offsets of the rows of all parts (at least one), in order."""
    moved: list[Any] = [parts[0]]
    before: Any = moved[0][-1]
    for part in parts[1:]:
        # Each part's first offset is the last one of those before it.
        numbers: Any = part
        moved.append(numbers[1:] + before)
        before = before + numbers[-1]
    return concatenate(moved)
