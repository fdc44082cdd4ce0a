"""A recorder without a graph: a replay runs the recorded step again, on the same memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Tensors
from saeserve.core.training.state import TrainerState
from saeserve.core.training.step import Done


@dataclass
class RunAgain:
    """What a step returned lies where it did at the first replay, as a graph's outputs do."""

    work: Callable[[], Done]
    done: Done | None = None

    def replay(self) -> Done:
        made = self.work()
        if self.done is None:
            metrics = {name: value.clone() for name, value in made.metrics.items()}
            self.done = Done(metrics, made.l0.clone(), made.rows)
        for name, value in made.metrics.items():
            self.done.metrics[name].copy_(value)
        self.done.l0.copy_(made.l0)
        return self.done


@dataclass
class RunOtherwise(RunAgain):
    """A replay that changes one number of the state too much."""

    moved: Tensor | None = None

    def replay(self) -> Done:
        made = super().replay()
        if self.moved is not None:
            self.moved.view(-1)[-1] += 1
        return made


@dataclass
class RerunRecorder:
    """Records without running; `error` is raised in place of it. Recordings move the parameter or
    moment named `wrong` otherwise than the step that was recorded."""

    error: Exception | None = None
    wrong: str = ""
    kernels: bool = True
    recorded: int = 0
    rates_type: torch.dtype = torch.float64
    """float64 for the CPU's own kernels, float32 for those of a GPU that are interpreted."""
    held: dict[tuple[str, torch.Size, torch.dtype], Tensor] = field(default_factory=dict)

    def takes(self, params: Tensors) -> bool:
        return self.kernels

    def memory(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        key = (name, shape, dtype)
        if key not in self.held:
            self.held[key] = torch.full(shape, torch.nan, dtype=dtype)
        return self.held[key]

    def rates(self, numbers: Sequence[float]) -> Tensor:
        memory = self.memory("rates", torch.Size([len(numbers)]), self.rates_type)
        if self.rates_type == torch.float64:
            return memory.copy_(torch.tensor(numbers, dtype=torch.float64))
        from saeserve.core.gpu import scalars

        return scalars.write_(memory, numbers)

    def record(self, work: Callable[[], Done], state: TrainerState) -> RunAgain:
        if self.error is not None:
            raise self.error
        self.recorded += 1
        if self.wrong:
            return RunOtherwise(work, moved=state.tensors()[self.wrong])
        return RunAgain(work)
