"""Sources whose rows can be had as they are stored: to copy them, and to go through all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from saeserve.core.data.lane import Lane, Mark

SENT_BYTES = 2**26
"""Bytes that are staged and copied at a time where all rows are gone through."""


@runtime_checkable
class StoredRows(Protocol):
    """A source whose rows can be had in the type in which they are stored."""

    @property
    def d(self) -> int:
        """Width of a row."""
        ...

    @property
    def rows(self) -> int:
        """Rows of one epoch."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """That type."""
        ...

    def fill(self, position: int, into_ND: Tensor) -> None:
        """Copy rows from `position` of the stream on."""
        ...

    def places(self, position: int, into_N: Tensor) -> None:
        """Say where these rows lie in a table of all."""
        ...

    def pieces(self) -> Iterator[Tensor]:
        """The table, piece after piece."""
        ...


def pieces_on_device(source: StoredRows, lane: Lane) -> Iterator[Tensor]:
    """The table on the device, in pieces of at most SENT_BYTES; the next one is read and copied
    while the device works on one."""
    rows = max(1, min(source.rows, SENT_BYTES // (source.d * source.dtype.itemsize)))
    free: deque[tuple[Tensor, Mark]] = deque(
        (lane.staging((rows, source.d), source.dtype), lane.mark()) for _ in range(2)
    )
    for piece_ND in source.pieces():
        for start in range(0, len(piece_ND), rows):
            memory_ND, copied = free.popleft()
            copied.wait()
            staged = memory_ND[: len(piece_ND) - start]
            staged.copy_(piece_ND[start : start + rows])
            sent = lane.send(staged)
            free.append((memory_ND, sent.copied))
            yield lane.receive(sent)
