"""Memory for gradients, used again once nobody holds it.

Fresh pages cost as much as the sums that are written into them: at 9216 x 576 two gradients are
10,000 page faults a step, whenever the allocator has given the last ones back. A buffer belongs to
one parameter and goes with it, so that trainers share none; two gradients of one parameter that
are held at once (micro-batches) stand in two buffers.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from saeserve.core.kernels.compiled import array


@dataclass
class _Buffer:
    memory: NDArray[Any]
    lease: weakref.ref[NDArray[Any]]
    """An array over the memory that lives as long as any tensor over it."""

    def lend(self) -> Tensor:
        held = self.memory.view()
        self.lease = weakref.ref(held)
        return torch.from_numpy(held)  # pyright: ignore[reportUnknownMemberType] - untyped in torch


_buffers: Any = WeakTensorKeyDictionary()


def gradient_of(parameter: Tensor) -> Tensor:
    """A tensor like `parameter`, on the CPU and not initialised, for its gradient."""
    known: list[_Buffer] = _buffers.setdefault(parameter, [])
    for buffer in known:
        if buffer.lease() is None:
            return buffer.lend()
    memory = array(torch.empty_like(parameter))
    known.append(_Buffer(memory, weakref.ref(memory)))
    return known[-1].lend()
