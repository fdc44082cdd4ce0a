"""Preprocessed batches of a source, and the time that training waits for them."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Dimensions
from saeserve.core.data.preprocess import AnyPreprocessing
from saeserve.core.data.source import ActivationSource


class Feed:
    """Rows of `source` on the device, centred, scaled and parted into input and target."""

    def __init__(
        self,
        source: ActivationSource,
        preprocessing: AnyPreprocessing,
        dims: Dimensions,
        device: torch.device,
    ) -> None:
        self._source = source
        self._preprocessing = preprocessing
        self._dims = dims
        self._device = device
        self.waited_seconds = 0.0
        """Spent in `read` so far."""

    def read(self, position: int, size: int) -> Batch:
        """Rows position .. position + size of the stream."""
        began = time.perf_counter()
        batch = self.prepared(self._source.batch(position, size))
        self.waited_seconds += time.perf_counter() - began
        return batch

    def prepared(self, rows_BC: Tensor) -> Batch:
        """Raw rows as the model sees them."""
        return self._dims.batch(self._preprocessing.apply(rows_BC.to(self._device)))


class Pace:
    """How fast rows are trained on, and which share of the time goes into waiting for them."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.restart()

    def restart(self) -> None:
        """Measure from now on."""
        self._began = time.perf_counter(), self._feed.waited_seconds

    def values(self, rows: float) -> dict[str, float]:
        """tokens_per_second and data_wait_fraction since the start, `rows` later; starts again."""
        began, waited = self._began
        self.restart()
        now, waited_now = self._began
        elapsed = max(now - began, 1e-9)
        return {
            "tokens_per_second": rows / elapsed,
            "data_wait_fraction": (waited_now - waited) / elapsed,
        }
