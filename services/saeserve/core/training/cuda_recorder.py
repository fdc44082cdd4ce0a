"""Steps recorded as CUDA graphs (`core.cuda_graphs`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Tensors
from saeserve.core.cuda_graphs import Captured, CudaGraphs
from saeserve.core.gpu import shadows
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.training.state import TrainerState
from saeserve.core.training.step import Done


class CudaRecording:
    """A captured step."""

    def __init__(self, captured: Captured[Done], state: TrainerState) -> None:
        """`state` has the tensors that the step changes."""
        self._captured = captured
        counters = (state.tokens_since_fired_F, state.tokens_since_fired_or_resampled_F)
        moments = (*state.moments.first.values(), *state.moments.second.values())
        self._params = list(state.params.values())
        self._others = [*moments, *state.architecture.values(), *counters]

    def replay(self) -> Done:
        """Start the graph on the current stream."""
        # Imports Triton, whose kernels are what was recorded.
        from saeserve.core.gpu import rows

        rows.renew(self._params)
        done = self._captured.replay()
        shadows.written(self._params, self._others)
        return done


class CudaRecorder:
    """Captures steps."""

    def __init__(self, device: torch.device) -> None:
        self._graphs = CudaGraphs(device)

    def takes(self, params: Tensors) -> bool:
        """Whether kernels update these, which read rates from memory."""
        if not usable_on_device(*params.values()):
            return False
        # Imports Triton, which is there by now.
        from saeserve.core.gpu import update

        return update.fits(params.values())

    def memory(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Memory outside of the pool."""
        return self._graphs.memory(name, shape, dtype)

    def rates(self, numbers: Sequence[float]) -> Tensor:
        """In float32, written by one launch."""
        from saeserve.core.gpu import scalars

        memory = self.memory("rates", torch.Size([len(numbers)]), torch.float32)
        return scalars.write_(memory, numbers)

    def record(self, work: Callable[[], Done], state: TrainerState) -> CudaRecording:
        """Capture the step, which must have run before. Raises what `CudaGraphs.capture` raises."""
        return CudaRecording(self._graphs.capture(work), state)
