"""Steps recorded as CUDA graphs (torch's notes on CUDA semantics, "CUDA Graphs").

Capturing runs the step's Python and starts nothing. Its temporaries lie in a pool of their own,
which all graphs of a recorder share: they are replayed one after the other on one stream, and what
one returns is read before the next. The pool holds what a step takes for as long as a graph lives,
so the cache of the steps before is given back first, and nothing is recorded where both a graph's
temporaries and those of a step without one do not fit.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Tensors
from saeserve.core.gpu import shadows
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.training.state import TrainerState
from saeserve.core.training.step import Done


class CudaRecording:
    """A captured step."""

    def __init__(self, graph: torch.cuda.CUDAGraph, work: Callable[[], Done], done: Done) -> None:
        """`work` holds all that the graph reads, so that nothing else takes its memory."""
        self._graph, self._work, self._done = graph, work, done
        self._params: list[Tensor] = []
        self._others: list[Tensor] = []

    def of(self, state: TrainerState) -> CudaRecording:
        """Say whose tensors the step changes."""
        counters = (state.tokens_since_fired_F, state.tokens_since_fired_or_resampled_F)
        moments = (*state.moments.first.values(), *state.moments.second.values())
        self._params = list(state.params.values())
        self._others = [*moments, *state.architecture.values(), *counters]
        return self

    def replay(self) -> Done:
        """Start the graph on the current stream."""
        # Imports Triton, whose kernels are what was recorded.
        from saeserve.core.gpu import rows

        rows.renew(self._params)
        self._graph.replay()
        shadows.written(self._params, self._others)
        return self._done


class CudaRecorder:
    """Captures on a stream next to the current one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Streams with a priority are apart from those of lanes, which other threads use meanwhile.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._memory: dict[tuple[str, torch.Size, torch.dtype], Tensor] = {}
        self._alive: WeakSet[CudaRecording] = WeakSet()
        self._pool: Any = None

    def takes(self, params: Tensors) -> bool:
        """Whether kernels update these, which read rates from memory."""
        if not usable_on_device(*params.values()):
            return False
        # Imports Triton, which is there by now.
        from saeserve.core.gpu import update

        return update.fits(params.values())

    def memory(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Memory outside of the pool."""
        key = (name, shape, dtype)
        if key not in self._memory:
            self._memory[key] = torch.empty(shape, dtype=dtype, device=self._device)
        return self._memory[key]

    def rates(self, numbers: Sequence[float]) -> Tensor:
        """In float32, written by one launch."""
        from saeserve.core.gpu import scalars

        memory = self.memory("rates", torch.Size([len(numbers)]), torch.float32)
        return scalars.write_(memory, numbers)

    def record(self, work: Callable[[], Done], state: TrainerState) -> CudaRecording:
        """Capture the step, which must have run before, so that all kernels are loaded. Raises
        MemoryError where there is too little room, and what torch raises."""
        self._make_room()
        graph, pool = torch.cuda.CUDAGraph(), self._shared_pool()
        with torch.cuda.stream(self._stream):
            self._load_libraries()
            torch.cuda.synchronize(self._device)
            # Other threads read rows and write checkpoints meanwhile, as they may.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                done = work()
                graph.capture_end()
            except BaseException:
                self._abandon(graph, pool)
                raise
        recording = CudaRecording(graph, work, done).of(state)
        self._alive.add(recording)
        return recording

    def _make_room(self) -> None:
        """Give back what steps without a graph have cached, and see whether it fits twice."""
        torch.cuda.synchronize(self._device)
        gc.collect()
        before = torch.cuda.memory_reserved(self._device)
        torch.cuda.empty_cache()
        taken = before - torch.cuda.memory_reserved(self._device)
        free, _total = torch.cuda.mem_get_info(self._device)
        if free < 2 * taken:
            raise MemoryError(
                f"a step takes up to {taken:,} bytes, twice of which do not fit into the "
                f"{free:,} that are free"
            )

    def _shared_pool(self) -> Any:  # noqa: ANN401 - torch's handle has no public type
        """The pool of the graphs that live; a new one after all of them are gone."""
        if not self._alive:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def _load_libraries(self) -> None:
        """Have cuBLAS take its memory for this stream outside of the pool."""
        for kind in (torch.float16, torch.float32):
            some = torch.zeros(16, 16, dtype=kind, device=self._device)
            torch.addmm(some[0], some, some)
            torch.mm(some, some)

    def _abandon(self, graph: torch.cuda.CUDAGraph, pool: Any) -> None:  # noqa: ANN401 - see above
        """End a capture that failed; torch leaves its allocator in the pool where CUDA refuses to
        end it, and CUDA's error for the next launch to find."""
        internal = cast(Any, torch)._C
        with suppress(RuntimeError):
            graph.capture_end()
        with suppress(RuntimeError):
            internal._cuda_endAllocateToPool(self._device.index or 0, pool)
            internal._cuda_releasePool(self._device.index or 0, pool)
        with suppress(RuntimeError):
            torch.zeros(1, device=self._device).add_(1)
