"""A device that does its work later, in a thread of its own, and an encoder with little room."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saeserve.core.export.device_model import Layout, PackedFeatures
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.ops.sparse import SparseRows
from saeserve.inference.packing import packed


@dataclass(frozen=True)
class Later:
    """Work that a thread does."""

    done: Future[None]

    def synchronize(self) -> None:
        self.done.result(30)


class LaterDevice:
    """Reads what it was sent when its turn comes, so that whoever reuses that memory is seen.

    `gate` cleared holds its work, `started` counts what it was given, `error` is raised by it.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.error: Exception | None = None
        self.made: list[int] = []
        self._thread = ThreadPoolExecutor(1)

    def memory(self, size: int) -> Tensor:
        self.made.append(size)
        return torch.full((size,), 0xEE, dtype=torch.uint8)

    def start(
        self, sent: Tensor, compute: Callable[[Tensor], Tensor], result: Callable[[int], Tensor]
    ) -> Later:
        self.started.release()
        return Later(self._thread.submit(self._work, sent, compute, result))

    def _work(
        self, sent: Tensor, compute: Callable[[Tensor], Tensor], result: Callable[[int], Tensor]
    ) -> None:
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        found = compute(sent.clone())
        result(found.nbytes).copy_(found.view(torch.uint8))


@dataclass(frozen=True)
class Returning:
    """A result that is still on the device."""

    copy: Callable[[], object]

    def synchronize(self) -> None:
        self.copy()


class LateReturn:
    """Computes in the order of its calls, and brings a result back when it is asked for, so that
    whoever computes into the memory of another result is seen."""

    def memory(self, size: int) -> Tensor:
        return torch.full((size,), 0xEE, dtype=torch.uint8)

    def start(
        self, sent: Tensor, compute: Callable[[Tensor], Tensor], result: Callable[[int], Tensor]
    ) -> Returning:
        found = compute(sent.clone())
        memory = result(found.nbytes)
        return Returning(lambda: memory.copy_(found.view(torch.uint8)))


@dataclass
class SmallEncoder:
    """The plain model's features in memory for so many entries a row, in blocks of rows."""

    model: InferenceModel
    room: int = 0
    block: int = 4
    rooms: list[int] = field(default_factory=list[int])

    @property
    def size_bytes(self) -> int:
        return 1000

    def padded(self, x_BD: Tensor) -> SparseRows | None:
        return None

    def note(self, needed: float) -> None:
        self.room = int(needed) + 1

    def encode(self, x_BD: Tensor) -> PackedFeatures:
        self.rooms.append(self.room)
        starts = range(0, len(x_BD), self.block)
        blocks = [self._cut(x_BD[start : start + self.block]) for start in starts]
        layouts = tuple(layout for one in blocks for layout in one.layouts)
        return PackedFeatures(torch.cat([one.buffer for one in blocks]), layouts)

    def _cut(self, x_BD: Tensor) -> PackedFeatures:
        whole = packed(self.model.encode(x_BD))
        (layout,) = whole.layouts
        room = self.room * len(x_BD)
        head = whole.buffer[: layout.size - 2 * layout.room]
        lists_2N = whole.buffer[layout.size - 2 * layout.room :].view(2, -1)
        cut_2R = lists_2N.new_zeros(2, room)
        cut_2R[:, : min(room, layout.room)] = lists_2N[:, :room]
        cut = Layout(layout.rows, room, None, layout.statistics)
        return PackedFeatures(torch.cat([head, cut_2R.reshape(-1)]), (cut,))
