"""Sources whose rows can be had as they are stored: to copy them, and to go through all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from saeserve.core.data.lane import Lane


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
    """The pieces of the table on the device; the next one is read while it works on one."""
    for piece_ND in source.pieces():
        staged = lane.staging(tuple(piece_ND.shape), piece_ND.dtype)
        staged.copy_(piece_ND)
        sent = lane.send(staged)
        yield lane.receive(sent)
        sent.copied.wait()
