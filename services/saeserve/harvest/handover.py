"""How rows leave the forward pass for the writer: at once on the CPU, by a thread for a device.

A device converts rows to the stored type, takes their norms and says whether they are finite. The
copy of that goes on while the next batch is computed; a thread waits for it, then hashes and
writes. Two batches may be on their way, each in memory of its own.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol, cast

import torch
from torch import Tensor

from saeserve.core.data.tensor_file import STORAGE
from saeserve.core.data.writer import DatasetWriter, RowBlock
from saeserve.core.specs.jobs import StorageType
from saeserve.harvest.rows import check_storable, not_storable

ON_THEIR_WAY = 2
ALIGNMENT = 16
"""Bytes of which each tensor's first one in the host's memory is a multiple."""


class Handover(Protocol):
    """Where a harvest gives its rows."""

    def add(self, block: RowBlock) -> None:
        """Give the next rows, on the model's device. Raises what checks and writer raised, then or
        for rows before."""
        ...

    def finish(self) -> None:
        """Return when all rows are with the writer. Raises what it raised."""
        ...


class Running(Protocol):
    """Copies that a device has been given."""

    def synchronize(self) -> None:
        """Return when they are done."""
        ...


class Copies(Protocol):
    """How a device copies to the host without its waiting."""

    def memory(self, size: int) -> Tensor:
        """Memory of the host that the device can write by itself: uint8 [size]."""
        ...

    def start(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Running:
        """Copy each first tensor to the second, once it is computed."""
        ...


class CudaCopies:
    """Copies in the stream of the forward pass, from which the next one follows at once."""

    def memory(self, size: int) -> Tensor:
        """Page-locked memory."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def start(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> torch.cuda.Event:
        """Queue the copies up, and return the event that ends them."""
        for there, here in pairs:
            here.copy_(there, non_blocking=True)
        # The waiting thread sleeps instead of spinning.
        copied = torch.cuda.Event(blocking=True)
        copied.record()
        return copied


@dataclass(frozen=True)
class Direct:
    """Rows are checked and written where they are added."""

    writer: DatasetWriter
    dtype: StorageType
    origins: Sequence[str]

    def add(self, block: RowBlock) -> None:
        """Check and write."""
        check_storable(block, self.dtype, self.origins)
        self.writer.add(block)

    def finish(self) -> None:
        """Nothing is on its way."""


@dataclass
class Place:
    """Memory of the host for a batch."""

    memory: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))


@dataclass(frozen=True)
class Made:
    """What a device has made of a source's rows, or its copy."""

    stored_ND: Tensor
    norms_N: Tensor
    finite: Tensor

    @classmethod
    def of(cls, x_ND: Tensor, dtype: StorageType) -> Made:
        """Convert and measure, where the rows are."""
        stored_ND = x_ND.to(STORAGE[dtype])
        # torch does not type it.
        norm = cast("Callable[..., Tensor]", torch.linalg.vector_norm)
        norms_N = norm(stored_ND, dim=1, dtype=torch.float64).float()
        return cls(stored_ND, norms_N, torch.isfinite(stored_ND).all())

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three."""
        return self.stored_ND, self.norms_N, self.finite


@dataclass(frozen=True)
class OnItsWay:
    """A batch that is copied: its rows on the device, and where they will be."""

    block: RowBlock
    copies: dict[str, Made]
    running: Running
    place: Place


class Background:
    """A thread takes rows from a device, checks and writes them."""

    def __init__(
        self,
        writer: DatasetWriter,
        dtype: StorageType,
        origins: Sequence[str],
        copies: Copies,
    ) -> None:
        """Start the thread; it ends with `close`."""
        self._writer = writer
        self._dtype: StorageType = dtype
        self._origins = origins
        self._copies = copies
        self._failure: Exception | None = None
        self._queue: SimpleQueue[OnItsWay | None] = SimpleQueue()
        self._places: SimpleQueue[Place] = SimpleQueue()
        for _ in range(ON_THEIR_WAY):
            self._places.put(Place())
        # In this context, so that whoever looks sees that shards are written.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="rows")
        self._thread.start()

    def add(self, block: RowBlock) -> None:
        """Start the copy; waits while two batches are on their way."""
        place = self._places.get()
        if self._failure is not None:
            self._places.put(place)
            raise self._failure
        made = {source: Made.of(x_ND, self._dtype) for source, x_ND in block.tensors.items()}
        here = self._in_memory(made, place)
        pairs = [
            pair
            for source in made
            for pair in zip(made[source].tensors, here[source].tensors, strict=True)
        ]
        self._queue.put(OnItsWay(block, here, self._copies.start(pairs), place))

    def finish(self) -> None:
        """Wait for the thread."""
        self.close()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the thread after what it has been given."""
        self._queue.put(None)
        self._thread.join()

    def _in_memory(self, made: dict[str, Made], place: Place) -> dict[str, Made]:
        """Tensors of the same shapes and types in the place's memory."""
        tensors = [tensor for each in made.values() for tensor in each.tensors]
        starts = [0]
        for tensor in tensors:
            starts.append(starts[-1] + -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT)
        if place.memory.numel() < starts[-1]:
            place.memory = self._copies.memory(starts[-1])
        views = iter(
            place.memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for start, tensor in zip(starts, tensors, strict=False)
        )
        return {source: Made(next(views), next(views), next(views)) for source in made}

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    self._write(batch)
                except Exception as error:
                    # Raised by the next `add` or `finish`.
                    self._failure = error
            self._places.put(batch.place)

    def _write(self, batch: OnItsWay) -> None:
        batch.running.synchronize()
        block, copies = batch.block, batch.copies
        for source, made in copies.items():
            if not bool(made.finite):
                x_ND = block.tensors[source].cpu()
                raise not_storable(block, source, x_ND, self._dtype, self._origins)
        stored = {source: made.stored_ND for source, made in copies.items()}
        norms = {source: made.norms_N for source, made in copies.items()}
        self._writer.add(dataclasses.replace(block, tensors=stored, norms=norms))


@contextlib.contextmanager
def handing_over(
    writer: DatasetWriter, dtype: StorageType, origins: Sequence[str], device: torch.device
) -> Generator[Handover]:
    """Give rows of `device` to the writer. What is on its way when the block ends early is
    written, and its errors are those of a block that has failed already."""
    if device.type == "cpu":
        yield Direct(writer, dtype, origins)
        return
    background = Background(writer, dtype, origins, CudaCopies())
    try:
        yield background
    finally:
        background.close()
