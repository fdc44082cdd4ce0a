"""An engine in stages for devices that work on while the host does something else.

Two batches are in flight: while one is computed, the next one's rows are copied to the device, or
the last one's answer back. A batch has a place of two buffers in the host's memory, which it leaves
when its answer has been read, so that nothing overwrites what a copy still reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saeserve.core.export.device_model import (
    DeviceEncoder,
    DeviceModel,
    Layout,
    PackedFeatures,
)
from saeserve.core.export.inference_model import InferenceModel
from saeserve.inference import packing
from saeserve.inference.engine import refusing_exhaustion
from saeserve.inference.packing import Sending
from saeserve.inference.rows import IntArray, Rows
from saeserve.inference.work import Operation

IN_FLIGHT = 2
Read = Callable[[IntArray], Rows | None]
"""Makes rows of a result's numbers; None where there was too little room for them."""


class Running(Protocol):
    """Work that a device has been given."""

    def synchronize(self) -> None:
        """Return when the result is in the host's memory. Raises what the device raised."""
        ...


class Device(Protocol):
    """Copies and computes in the order of its calls, without the host waiting for it."""

    def memory(self, size: int) -> Tensor:
        """Memory of the host that the device can read and write by itself: uint8 [size]."""
        ...

    def start(
        self, sent: Tensor, compute: Callable[[Tensor], Tensor], result: Callable[[int], Tensor]
    ) -> Running:
        """Copy `sent` to the device, compute there, and copy what comes of it back.

        `result` returns memory of the host for a result of so many bytes. `sent` and the result's
        memory stay the device's until `Running.synchronize` has returned.
        """
        ...


@dataclass
class Buffer:
    """Memory of the host that grows with what it has to hold."""

    device: Device
    memory: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))

    def of(self, size: int) -> Tensor:
        """The first `size` bytes; what it held is gone where it was smaller."""
        if self.memory.numel() < size:
            # Doubled, since making such memory takes the host long.
            self.memory = self.device.memory(max(size, 2 * self.memory.numel()))
        return self.memory[:size]


@dataclass(frozen=True)
class Place:
    """The two buffers of a batch in flight."""

    sent: Buffer
    result: Buffer


class StagedEngine:
    """Runs InferenceModels on a device in stages."""

    in_flight = IN_FLIGHT
    takes_sent_types = True

    def __init__(self, device: Device) -> None:
        """Make the places."""
        self._device = device
        self._places: SimpleQueue[Place] = SimpleQueue()
        for _ in range(IN_FLIGHT):
            self._places.put(Place(Buffer(device), Buffer(device)))

    def begin(
        self, model: InferenceModel, operation: Operation, parts: Sequence[Rows]
    ) -> Callable[[], Rows]:
        """Start a batch on the device.

        Raises Overloaded when the device has no memory for it, as does what is returned, which
        also raises InvalidInput when finite rows leave float32 on the way.
        """
        rows, place = sum(part.rows for part in parts), self._places.get()
        try:
            with refusing_exhaustion(rows):
                batch = Batch.of(self._device, place, model, operation, parts)
                batch.start()
        except BaseException:
            self._places.put(place)
            raise

        def answer() -> Rows:
            try:
                with refusing_exhaustion(rows):
                    return batch.answer()
            finally:
                self._places.put(place)

        return answer


@dataclass
class Batch:
    """A batch in its place."""

    device: Device
    place: Place
    model: InferenceModel
    operation: Operation
    sending: Sending
    rows: int
    running: Running | None = None
    _read: Read | None = None
    _numbers: Tensor | None = None

    @classmethod
    def of(
        cls,
        device: Device,
        place: Place,
        model: InferenceModel,
        operation: Operation,
        parts: Sequence[Rows],
    ) -> Batch:
        """Fill the place with the rows of a batch."""
        sending = packing.sending(parts)
        sending.fill(place.sent.of(sending.size))
        return cls(device, place, model, operation, sending, sum(part.rows for part in parts))

    def start(self) -> None:
        """Give the device its work."""
        sent = self.place.sent.of(self.sending.size)
        self.running = self.device.start(sent, self._compute, self._memory)

    def answer(self) -> Rows:
        """Wait for the device; where a buffer was too small for the features, once more."""
        while True:
            if self.running is None:
                raise RuntimeError("the batch was not started; this is a bug")
            self.running.synchronize()
            if (rows := self._read_result()) is not None:
                return rows
            self.start()

    def _memory(self, size: int) -> Tensor:
        self._numbers = self.place.result.of(size)
        return self._numbers

    def _read_result(self) -> Rows | None:
        if self._numbers is None or self._read is None:
            raise RuntimeError("the device computed nothing; this is a bug")
        found: npt.NDArray[np.uint8] = self._numbers.numpy()
        return self._read(found.view(np.int32))

    def _compute(self, there: Tensor) -> Tensor:
        with torch.inference_mode():
            arrays = self.sending.read(there)
            if self.operation is Operation.DECODE:
                found = packing.features(arrays, self.model.config.d_sae)
                return self._dense(self.model.decode(found))
            x_BD = packing.widened(arrays)
            if self.operation is Operation.RECONSTRUCT:
                return self._dense(self.model.reconstruct(x_BD))
            return self._sparse(encoded(self.model, x_BD))

    def _dense(self, y_BO: Tensor) -> Tensor:
        shape = (self.rows, y_BO.shape[1])
        self._read = lambda buffer: packing.dense_of(buffer, shape)
        return packing.packed_dense(y_BO)

    def _sparse(self, found: PackedFeatures) -> Tensor:
        # The buffer on the device is free again once it has been copied.
        layouts = found.layouts
        self._read = lambda buffer: self._features(buffer, layouts)
        return found.buffer

    def _features(self, buffer: IntArray, layouts: tuple[Layout, ...]) -> Rows | None:
        if (encoder := encoder_of(self.model)) is not None:
            needed, enough = packing.needed_room(buffer, layouts)
            encoder.note(needed)
            if not enough:
                return None
        found = packing.features_of(buffer, layouts, self.model.config.d_sae)
        return found if found.rows == self.rows else found.part(0, self.rows)


def encoded(model: InferenceModel, x_BD: Tensor) -> PackedFeatures:
    """Features in one buffer: by the kernels of the device where the model has some for it."""
    encoder = encoder_of(model)
    if encoder is not None and len(x_BD):
        return encoder.encode(x_BD)
    return packing.packed(model.encode(x_BD))


def encoder_of(model: InferenceModel) -> DeviceEncoder | None:
    """What encodes in kernels, where the model has it."""
    return model.encoder if isinstance(model, DeviceModel) else None
