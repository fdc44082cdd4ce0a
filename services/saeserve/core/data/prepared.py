"""Rows prepared once for several readers: read, moved, centred and scaled."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.data.lane import Lane
from saeserve.core.data.on_device import RowsOnDevice
from saeserve.core.data.preprocess import Prepares
from saeserve.core.data.source import ActivationSource


class AsTheyAre:
    """The preprocessing of rows that are prepared already."""

    def apply(self, x_BD: Tensor) -> Tensor:
        """The rows themselves, not a copy; nobody may write to them."""
        return x_BD

    def on(self, device: torch.device) -> AsTheyAre:  # noqa: ARG002 - the contract's signature
        """Itself: it has no constants."""
        return self


class PreparedRows:
    """An activation source whose rows come prepared, and on the device.

    The blocks of the held stretch are kept and handed to whoever asks for the same block; others
    are prepared again each time. Values equal those of preparing the source's rows one by one.
    """

    def __init__(
        self, source: ActivationSource, preprocessing: Prepares, lane: Lane, wanted: int = 0
    ) -> None:
        """`wanted`: so many rows will be read, if that is known."""
        self.device = lane.device
        self._source = source
        self._preprocessing = preprocessing
        self._rows = RowsOnDevice(source, preprocessing, lane, wanted)
        self.waits = self._rows.waits
        self._held = range(0)
        self._blocks: dict[tuple[int, int], Tensor] = {}
        self._sample: tuple[tuple[int, int], Tensor] | None = None

    @property
    def d(self) -> int:
        """Width of a row."""
        return self._source.d

    @property
    def rows(self) -> int:
        """Rows of one epoch."""
        return self._source.rows

    def stepped(self) -> None:
        """Say that a step was queued."""
        self._rows.stepped()

    def hold(self, start: int, rows: int) -> None:
        """Keep what is read of rows start .. start + rows from now on; let go of all else."""
        self._held = range(start, start + rows)
        self._sample = None
        self._blocks = {block: x for block, x in self._blocks.items() if self._holds(*block)}

    def batch(self, position: int, size: int) -> Tensor:
        """Rows position .. position + size of the stream, prepared; [size, d], to be read only."""
        block = (position, size)
        if not self._holds(*block):
            return self._rows.read(*block)
        if block not in self._blocks:
            self._blocks[block] = self._rows.read(*block)
        return self._blocks[block]

    def sample(self, n: int, seed: int) -> Tensor:
        """The source's sample, prepared, on the CPU; the last one is kept until `hold`."""
        if self._sample is None or self._sample[0] != (n, seed):
            sample_ND = self._preprocessing.apply(self._source.sample(n, seed))
            self._sample = ((n, seed), sample_ND)
        return self._sample[1]

    def _holds(self, position: int, size: int) -> bool:
        return self._held.start <= position and position + size <= self._held.stop
