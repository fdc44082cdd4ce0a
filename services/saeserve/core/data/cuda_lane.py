"""The lane to a CUDA device, by torch's streams and events.

Staging memory is pinned, so that copies of it do not wait, and each copy has an event. Rows go over
on a stream of their own, checkpoints come back on another; the queue is the current stream. Memory
that was made on one stream and is used on another is recorded there, or the allocator would give it
away too early (torch's notes on CUDA semantics, "CUDA streams", and `Tensor.record_stream`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.data.lane import Fetched, Held, Mark, Sent


@dataclass(frozen=True)
class EventMark:
    """A CUDA event."""

    event: torch.cuda.Event

    def passed(self) -> bool:
        """Whether it was reached; does not wait."""
        return self.event.query()

    def wait(self) -> None:
        """Let the host wait for it."""
        self.event.synchronize()


class CudaLane:
    """Copies on streams next to the current one."""

    asynchronous = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sending = torch.cuda.Stream(device)
        self._bringing = torch.cuda.Stream(device)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Pinned memory."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def send(self, staged: Tensor) -> Sent:
        """Copy pinned memory on the stream that sends."""
        with torch.cuda.stream(self._sending):
            moved = staged.to(self.device, non_blocking=True)
            return Sent(moved, _record(self._sending))

    def receive(self, sent: Sent) -> Tensor:
        """Let the current stream wait for the copy."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(_event_of(sent.copied))
        sent.tensor.record_stream(current)
        return sent.tensor

    def mark(self) -> EventMark:
        """An event of the current stream."""
        return _record(torch.cuda.current_stream(self.device))

    def seconds(self, first: Mark, last: Mark) -> float:
        """The device's own time between two events."""
        first.wait()
        last.wait()
        return _event_of(first).elapsed_time(_event_of(last)) / 1000

    def fetch(self, value: Tensor) -> Fetched:
        """Copy into pinned memory on the current stream."""
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        host.copy_(value.detach(), non_blocking=True)
        return Fetched(host, self.mark())

    def hold(self, tensors: Mapping[str, Tensor]) -> Held:
        """Copies on the current stream."""
        return Held({name: value.detach().clone() for name, value in tensors.items()}, self.mark())

    def bring(self, held: Held) -> dict[str, Tensor]:
        """Copy into pinned memory on the stream that brings, and wait for it."""
        host: dict[str, Tensor] = {}
        with torch.cuda.stream(self._bringing):
            self._bringing.wait_event(_event_of(held.mark))
            for name, value in held.tensors.items():
                host[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                host[name].copy_(value, non_blocking=True)
                if value.is_cuda:
                    value.record_stream(self._bringing)
            _record(self._bringing).wait()
        return host

    def free_bytes(self) -> int:
        """What the driver has left; what torch's allocator keeps is for the next step."""
        free, _total = torch.cuda.mem_get_info(self.device)
        return free


def _record(stream: torch.cuda.Stream) -> EventMark:
    # The host sleeps while it waits for one: readers and writers want its cores.
    event = torch.cuda.Event(enable_timing=True, blocking=True)
    event.record(stream)
    return EventMark(event)


def _event_of(mark: Mark) -> torch.cuda.Event:
    if not isinstance(mark, EventMark):
        raise TypeError("a mark of another lane")
    return mark.event
