"""A lane whose device is late: what it delivers is garbage until somebody has waited for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saeserve.core.data.lane import Fetched, Held, Mark, Sent


@dataclass
class Queue:
    """Work that is done in order, once somebody waits for it or has asked for it often enough."""

    late: int
    done: int = 0
    queued: int = 0
    pending: deque[tuple[int, Callable[[], None]]] = field(default_factory=deque)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, work: Callable[[], None]) -> LateMark:
        with self.lock:
            self.queued += 1
            self.pending.append((self.queued, work))
            return LateMark(self, self.queued, time.perf_counter())

    def reach(self, place: int) -> None:
        with self.lock:
            while self.pending and self.pending[0][0] <= place:
                self.pending.popleft()[1]()
            self.done = max(self.done, place)


@dataclass
class LateMark:
    """A mark that passes when it is waited for, or after `Queue.late` questions."""

    queue: Queue
    place: int
    time: float
    asked: int = 0

    def passed(self) -> bool:
        self.asked += 1
        if self.asked > self.queue.late:
            self.queue.reach(self.place)
        return self.queue.done >= self.place

    def wait(self) -> None:
        self.queue.reach(self.place)


def nothing() -> None:
    pass


class LateLane:
    """The device computes on the CPU, and everything arrives as late as it may."""

    asynchronous = True
    device = torch.device("cpu")

    def __init__(self, late: int = 3, free: int = 0) -> None:
        """`late`: questions after which a mark has passed; `free`: bytes of the device."""
        self.free = free
        self.faults: list[str] = []
        self.staged: list[tuple[int, ...]] = []
        self.copies, self.work = Queue(late), Queue(late)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.staged.append(shape)
        return garbage(torch.empty(shape, dtype=dtype))

    def send(self, staged: Tensor) -> Sent:
        seen, arriving = staged.clone(), garbage(torch.empty_like(staged))

        def arrive() -> None:
            if not torch.equal(staged, seen):
                self.faults.append("staging memory was written to while it was copied")
            arriving.copy_(staged)

        return Sent(arriving, self.copies.add(arrive))

    def receive(self, sent: Sent) -> Tensor:
        sent.copied.wait()
        return sent.tensor

    def mark(self) -> LateMark:
        return self.work.add(nothing)

    def seconds(self, first: Mark, last: Mark) -> float:
        assert isinstance(first, LateMark)
        assert isinstance(last, LateMark)
        first.wait()
        last.wait()
        return last.time - first.time

    def fetch(self, value: Tensor) -> Fetched:
        there, host = value.detach().clone(), garbage(torch.empty_like(value))
        return Fetched(host, self.work.add(lambda: _copy(there, host)))

    def hold(self, tensors: Mapping[str, Tensor]) -> Held:
        return Held({name: value.clone() for name, value in tensors.items()}, self.mark())

    def bring(self, held: Held) -> dict[str, Tensor]:
        held.mark.wait()
        return dict(held.tensors)

    def free_bytes(self) -> int:
        return self.free

    @property
    def open(self) -> int:
        """Work that nobody knows to be done."""
        return self.work.queued - self.work.done


def garbage(memory: Tensor) -> Tensor:
    """What nobody may use."""
    return memory.fill_(torch.nan if memory.is_floating_point() else -1)


def _copy(there: Tensor, host: Tensor) -> None:
    host.copy_(there)
