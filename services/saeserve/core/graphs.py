"""Work of a device that is recorded once and started as a whole from then on: one small contract.

Starting each operation costs the host more than many of them take a GPU. A graph has the operations
of a piece of work, on the memory that it was recorded with, and starts all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Replays(Protocol[T_co]):
    """Recorded work."""

    def replay(self) -> T_co:
        """Do it on the current stream. What it returns is written over by the next replay of any
        graph of the same `Graphs`."""
        ...


class Graphs(Protocol):
    """Records work on one device."""

    @property
    def size_bytes(self) -> int:
        """Memory of what graphs read and of their temporaries."""
        ...

    def memory(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Memory that graphs read, the same for the same arguments."""
        ...

    def capture(self, work: Callable[[], T]) -> Replays[T]:
        """Record `work`, which must have run before, without doing it. Raises whatever keeps it
        from being recorded."""
        ...


def graphs_on(device: torch.device) -> Graphs | None:
    """The recorder of a device of this machine, where there is one."""
    if device.type != "cuda":
        return None
    from saeserve.core.cuda_graphs import CudaGraphs

    return CudaGraphs(device)
