"""A CUDA device for `staged`: streams, events and page-locked memory. Tests use another one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor


class CudaDevice:
    """Three streams: copies to the device, work on it, and copies back, each in its own order."""

    def __init__(self, device: torch.device) -> None:
        """Make the streams, and have products summed as `core.kernels.rounding` assumes."""
        self._device = device
        self._lock = threading.Lock()
        self._sending, self._computing, self._returning = (
            torch.cuda.Stream(device) for _ in range(3)
        )
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

    def memory(self, size: int) -> Tensor:
        """Page-locked memory of the host: uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def start(
        self, sent: Tensor, compute: Callable[[Tensor], Tensor], result: Callable[[int], Tensor]
    ) -> torch.cuda.Event:
        """Queue up the copies and the work, which `compute` does for its own, and return the event
        that ends them."""
        with self._lock:
            try:
                return self._start(sent, compute, result)
            except BaseException:
                # `sent` is the caller's again, so nothing may still read it.
                self._sending.synchronize()
                raise

    def _start(
        self, sent: Tensor, compute: Callable[[Tensor], Tensor], result: Callable[[int], Tensor]
    ) -> torch.cuda.Event:
        with torch.cuda.stream(self._sending):
            there = sent.to(self._device, non_blocking=True)
        self._computing.wait_stream(self._sending)
        with torch.cuda.stream(self._computing):
            # Its memory may be given to others only when this stream has read it.
            there.record_stream(self._computing)
            found = compute(there)
        self._returning.wait_stream(self._computing)
        with torch.cuda.stream(self._returning):
            result(found.nbytes).copy_(found.view(torch.uint8), non_blocking=True)
            found.record_stream(self._returning)
            # The waiting thread sleeps instead of spinning.
            copied = torch.cuda.Event(blocking=True)
            copied.record(self._returning)
        return copied
