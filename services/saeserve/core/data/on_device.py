"""Prepared rows of a source on a device: read ahead, or all of them kept there where they fit.

They go over in the type in which they are stored, and are widened, centred and scaled on the
device. Whether all fit is asked after a few steps, when the allocator has what a step takes. On
the CPU rows are read when they are asked for: a source reads its windows ahead itself.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from saeserve.core.data.lane import Lane
from saeserve.core.data.preprocess import Prepares
from saeserve.core.data.source import ActivationSource
from saeserve.core.data.staged import Filled, Reader
from saeserve.core.data.stored import StoredRows, pieces_on_device
from saeserve.core.data.waits import Waits

RESIDENT_SHARE = 0.3
"""Rows that take no more of the device's free memory stay there."""
WARM_STEPS = 2
"""Steps after which the allocator has what a step takes."""


@runtime_checkable
class LiesOnDevice(Protocol):
    """A source whose rows are on a device already."""

    device: torch.device


class RowsOnDevice:
    """Reads prepared rows of `source`, and counts how long they are waited for."""

    def __init__(
        self,
        source: ActivationSource,
        preprocessing: Prepares,
        lane: Lane,
        wanted: int = 0,
    ) -> None:
        """`wanted`: so many rows will be read; all are kept only where each is read twice."""
        self.waits = Waits(lane)
        self._wanted = wanted
        self._steps = 0
        self._source = source
        self._preprocessing = preprocessing.on(lane.device)
        self._staged = lane.asynchronous and not isinstance(source, LiesOnDevice)
        self._table_ND: Tensor | None = None
        self._reader: Reader | None = None

    def read(self, position: int, size: int) -> Tensor:
        """Rows position .. position + size of the stream, prepared, [size, d]."""
        if self._staged:
            return self._preprocessing.apply(self._read_ahead(position, size))
        with self.waits.waiting():
            rows_BD = self._source.batch(position, size)
        return self._preprocessing.apply(rows_BD)

    def stepped(self) -> None:
        """Say that a step was queued; after WARM_STEPS of them all rows may be taken over."""
        self._steps += 1
        if self._steps == WARM_STEPS and self._reader is not None:
            self._keep_if_room(self._reader)

    def _read_ahead(self, position: int, size: int) -> Tensor:
        """Rows, float32, on the device."""
        reader = self._reader = self._reader or self._begin()
        with self.waits.waiting():
            found = reader.read(position, size)
        return (found if self._table_ND is None else self._table_ND.index_select(0, found)).float()

    def _begin(self) -> Reader:
        source, lane = self._source, self.waits.lane
        if isinstance(source, StoredRows):
            return Reader(Filled(source.fill, (source.d,), source.dtype), lane)
        return Reader(Filled(self._copy_batch, (source.d,), torch.float32), lane)

    def _keep_if_room(self, reader: Reader) -> None:
        """Take over all rows where they fit, and have only their places read from now on."""
        source, lane = self._source, self.waits.lane
        if not isinstance(source, StoredRows) or self._wanted < 2 * source.rows:
            return
        if source.rows * source.d * source.dtype.itemsize > RESIDENT_SHARE * lane.free_bytes():
            return
        with self.waits.waiting():
            reader.discard()
            self._table_ND = table_of(source, lane)
        self._reader = Reader(Filled(source.places, (), torch.int64), lane)

    def _copy_batch(self, position: int, into_ND: Tensor) -> None:
        into_ND.copy_(self._source.batch(position, len(into_ND)))


def table_of(source: StoredRows, lane: Lane) -> Tensor:
    """All rows of a source on the device, in the stored type, as `places` counts them."""
    table_ND = torch.empty((source.rows, source.d), dtype=source.dtype, device=lane.device)
    start = 0
    for piece_ND in pieces_on_device(source, lane):
        table_ND[start : start + len(piece_ND)] = piece_ND
        start += len(piece_ND)
    return table_ND
