"""Recorded steps, and who records them: one small contract.

The device's part of a step is the same list of operations each time, and starting them costs the
host more than the work takes a GPU. A recording has that list as a graph and starts all of it at
once, on the memory that the step was recorded with: the state's tensors, which move in place, and
what `Recorder.memory` gave for rows and numbers. Numbers of the host are frozen in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Tensors
from saeserve.core.training.state import TrainerState
from saeserve.core.training.step import Done


class Recording(Protocol):
    """The device's part of a step, to be done again and again."""

    def replay(self) -> Done:
        """Do it. What it returns is written over by the next replay of any recording."""
        ...


class Recorder(Protocol):
    """Records steps of one run, or of runs that take turns, on one device."""

    def takes(self, params: Tensors) -> bool:
        """Whether steps on these parameters need no number of the host's but those in memory."""
        ...

    def memory(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Memory that recordings read, the same for the same arguments."""
        ...

    def rates(self, numbers: Sequence[float]) -> Tensor:
        """Memory that recordings read, in which these numbers are `Optimizer.rates_R` now."""
        ...

    def record(self, work: Callable[[], Done], state: TrainerState) -> Recording:
        """Record `work`, which moves `state`, without doing it. Raises whatever keeps it from
        being recorded; the state is then as before."""
        ...


def recorder_to(device: torch.device) -> Recorder | None:
    """The recorder of a device of this machine, where graphs exist."""
    if device.type != "cuda":
        return None
    from saeserve.core.training.cuda_recorder import CudaRecorder

    return CudaRecorder(device)
