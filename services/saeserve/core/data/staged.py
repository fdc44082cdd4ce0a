"""Blocks of a source on a device: read ahead on a thread, staged, copied while the device works.

A thread fills staging memory with the next blocks and starts their copies, so that neither the disk
nor the bus is waited for unless it is slower than the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.data.ahead import Ahead, Background
from saeserve.core.data.lane import Lane, Mark, Sent

BLOCKS_AHEAD = 2
"""Blocks that are read before they are asked for."""
STAGED_BLOCKS = 2
"""Blocks that are staged at a time: one is filled while the other is copied."""
Block = tuple[int, int]
"""Position and size."""


@dataclass(frozen=True)
class Filled:
    """What a block is made of: `fill` writes the rows from a position on into memory that holds
    as many rows of `shape` as it is to write."""

    fill: Callable[[int, Tensor], None]
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class _Slot:
    """Staging memory for a block, and when its last copy is done."""

    memory: Tensor
    copied: Mark | None = None


class Reader:
    """Reads blocks that follow each other ahead of time; any other is exact too, and waited for.

    `filled` is called on one thread alone, and nobody else may read its source meanwhile.
    """

    def __init__(self, filled: Filled, lane: Lane) -> None:
        self._filled = filled
        self._lane = lane
        self._background = Background()
        self._ahead: deque[tuple[Block, Ahead[Sent]]] = deque()
        self._slots: deque[_Slot] = deque()

    def read(self, position: int, size: int) -> Tensor:
        """The block at `position` of the stream, of `size` rows, on the device."""
        block = (position, size)
        if self._ahead and self._ahead[0][0] != block:
            self.discard()
        if not self._ahead:
            self._ahead.append(self._begin(block))
        last = self._ahead[-1][0][0]
        for n in range(1, BLOCKS_AHEAD + 2 - len(self._ahead)):
            self._ahead.append(self._begin((last + n * size, size)))
        return self._lane.receive(self._ahead.popleft()[1].result())

    def _begin(self, block: Block) -> tuple[Block, Ahead[Sent]]:
        return block, Ahead(lambda: self._send(*block), self._background)

    def discard(self) -> None:
        """Let go of what was read ahead; nothing reads the source when this returns."""
        while self._ahead:
            self._ahead.popleft()[1].discard()

    def _send(self, position: int, size: int) -> Sent:
        """Fill a block and start its copy; on the thread."""
        slot = self._slot(size)
        block = slot.memory[:size]
        self._filled.fill(position, block)
        sent = self._lane.send(block)
        slot.copied = sent.copied
        self._slots.append(slot)
        return sent

    def _slot(self, size: int) -> _Slot:
        """Staging memory that no copy reads any more."""
        slot = self._slots.popleft() if len(self._slots) >= STAGED_BLOCKS else None
        if slot is not None and slot.copied is not None:
            slot.copied.wait()
        if slot is None or len(slot.memory) < size:
            shape = (size, *self._filled.shape)
            slot = _Slot(self._lane.staging(shape, self._filled.dtype))
        return slot
