"""Recordings are trusted only where they were seen to do what they recorded.

Before a step is recorded, what it moves is copied; it is done, and its results are summed up. Then
the state is put back, and the recording does the same step. Both have to come to the same bits. So
a run never goes on with a graph that reads the wrong memory, on whatever card, driver or release of
torch: it costs two steps and a copy of the state, once for each recording.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Tensors
from saeserve.core.training.state import TrainerState
from saeserve.core.training.step import Done

MOVED = ("params.", "first.", "second.", "architecture.", "counters.")
"""Groups of the state's tensors that a recorded step moves in place."""


class Before:
    """The state before a step, to which it can be put back."""

    def __init__(self, state: TrainerState) -> None:
        """Copy what a step moves."""
        self._state = state
        self._held = {name: tensor.clone() for name, tensor in _moved(state).items()}

    def restore(self) -> None:
        """Put the state back, in place."""
        for name, tensor in _moved(self._state).items():
            tensor.copy_(self._held[name])


class After:
    """What a step came to: each tensor's bits summed up, since no second copy may fit."""

    def __init__(self, state: TrainerState, done: Done) -> None:
        """Sum up the state and what is reported; waits for nothing yet."""
        results = {f"reported {name}": value for name, value in done.metrics.items()}
        named = {**_moved(state), **results, "reported l0": done.l0}
        self._names, self._sums = tuple(named), _bits(named.values())

    def require(self, other: After) -> None:
        """Wait for both; raises RuntimeError with the names of what is not the same."""
        unequal = (self._sums != other._sums).nonzero()
        names = ", ".join(self._names[int(number)] for number in unequal)
        if names:
            raise RuntimeError(f"a recorded step comes to something else in {names}")


def _moved(state: TrainerState) -> Tensors:
    return {name: value for name, value in state.tensors().items() if name.startswith(MOVED)}


def _bits(tensors: Iterable[Tensor]) -> Tensor:
    """int64, one sum of 32-bit words for each tensor."""
    words = (tensor.detach().reshape(-1).view(torch.int32) for tensor in tensors)
    return torch.stack([word.sum(dtype=torch.int64) for word in words])
