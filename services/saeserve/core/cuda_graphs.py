"""Work recorded as CUDA graphs (torch's notes on CUDA semantics, "CUDA Graphs").

Capturing runs the work's Python and starts nothing. Its temporaries lie in a pool of their own,
which all graphs of a `CudaGraphs` share: they are replayed one after the other on one stream, and
what one returns is read before the next. The pool holds what the work takes for as long as a graph
lives, so the cache of what ran before is given back first, and nothing is recorded where both a
graph's temporaries and those of the same work without one do not fit.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast
from weakref import WeakSet

import torch
from torch import Tensor

T = TypeVar("T")


class Captured(Generic[T]):
    """Captured work."""

    def __init__(self, graph: torch.cuda.CUDAGraph, work: Callable[[], T], made: T) -> None:
        """`work` holds all that the graph reads, so that nothing else takes its memory."""
        self._graph, self._work, self._made = graph, work, made

    def replay(self) -> T:
        """Start the graph on the current stream."""
        self._graph.replay()
        return self._made


class CudaGraphs:
    """Captures on a stream next to the current one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Streams with a priority are apart from those of lanes, which other threads use meanwhile.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._memory: dict[tuple[str, torch.Size, torch.dtype], Tensor] = {}
        self._alive: WeakSet[Captured[Any]] = WeakSet()
        self._pool: Any = None
        self._pool_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Memory of what graphs read, and of the pool."""
        read = sum(tensor.nbytes for tensor in self._memory.values())
        return read + (self._pool_bytes if self._alive else 0)

    def memory(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Memory outside of the pool."""
        key = (name, shape, dtype)
        if key not in self._memory:
            self._memory[key] = torch.empty(shape, dtype=dtype, device=self._device)
        return self._memory[key]

    def capture(self, work: Callable[[], T]) -> Captured[T]:
        """Capture the work, which must have run before, so that all kernels are loaded. Raises
        MemoryError where there is too little room, and what torch raises."""
        self._make_room()
        graph, pool = torch.cuda.CUDAGraph(), self._shared_pool()
        with torch.cuda.stream(self._stream):
            self._load_libraries()
            torch.cuda.synchronize(self._device)
            before = torch.cuda.memory_reserved(self._device)
            # Other threads read rows and write checkpoints meanwhile, as they may.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                made = work()
                graph.capture_end()
            except BaseException:
                self._abandon(graph, pool)
                raise
        self._pool_bytes += max(0, torch.cuda.memory_reserved(self._device) - before)
        captured = Captured(graph, work, made)
        self._alive.add(captured)
        return captured

    def _make_room(self) -> None:
        """Give back what work without a graph has cached, and see whether it fits twice."""
        torch.cuda.synchronize(self._device)
        gc.collect()
        before = torch.cuda.memory_reserved(self._device)
        torch.cuda.empty_cache()
        taken = before - torch.cuda.memory_reserved(self._device)
        free, _total = torch.cuda.mem_get_info(self._device)
        if free < 2 * taken:
            raise MemoryError(
                f"the work takes up to {taken:,} bytes, twice of which do not fit into the "
                f"{free:,} that are free"
            )

    def _shared_pool(self) -> Any:  # noqa: ANN401 - torch's handle has no public type
        """The pool of the graphs that live; a new one after all of them are gone."""
        if not self._alive:
            self._pool, self._pool_bytes = torch.cuda.graph_pool_handle(), 0
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
