"""Preprocessed batches of a source, and the time that training waits for them."""

from __future__ import annotations

import time
from typing import Protocol

import torch

from saeserve.core.architectures.contract import Batch, Dimensions
from saeserve.core.data.preprocess import Prepares
from saeserve.core.data.source import ActivationSource


class Feed:
    """Rows of `source` on the device, centred, scaled and parted into input and target."""

    def __init__(
        self,
        source: ActivationSource,
        preprocessing: Prepares,
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
        rows = self._source.batch(position, size).to(self._device)
        batch = self._dims.batch(self._preprocessing.apply(rows))
        self.waited_seconds += time.perf_counter() - began
        return batch


class Waits(Protocol):
    """What rows are waited for."""

    waited_seconds: float
    """Spent waiting so far."""


class Pace:
    """How fast rows are trained on, and which share of the time goes into waiting for them."""

    def __init__(self, feed: Waits) -> None:
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
