"""What the host and a device hand to each other, and when: one small contract.

A device works through its queue while the host goes on. What the host hands over lies in staging
memory, which must not be written to until it has been copied; what it asks for arrives later. Marks
are points of the device's queue: the host asks whether one has passed, waits for it, and measures
the time between two. On the CPU everything has happened when a call returns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Mark(Protocol):
    """A point of a device's queue."""

    def passed(self) -> bool:
        """Whether the device has done all that was queued before; does not wait."""
        ...

    def wait(self) -> None:
        """Wait until it has."""
        ...


@dataclass(frozen=True)
class Sent:
    """A tensor on its way to the device; `Lane.receive` says when it may be used."""

    tensor: Tensor
    copied: Mark
    """The staging memory may be written to again once this has passed."""


@dataclass(frozen=True)
class Fetched:
    """A tensor on its way to the host."""

    host: Tensor
    mark: Mark

    def value(self) -> Tensor:
        """The tensor, waiting for it."""
        self.mark.wait()
        return self.host


@dataclass(frozen=True)
class Held:
    """Copies on the device of tensors as they were at a mark, for `Lane.bring`."""

    tensors: dict[str, Tensor]
    mark: Mark


class Lane(Protocol):
    """The way to one device and back."""

    device: torch.device
    asynchronous: bool
    """Whether the device goes on by itself, so that the host should not wait for it."""

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the host that `send` copies from."""
        ...

    def send(self, staged: Tensor) -> Sent:
        """Copy staging memory to the device without waiting; may be called on any thread."""
        ...

    def receive(self, sent: Sent) -> Tensor:
        """The tensor that was sent; what is queued from now on waits for it, the host does not."""
        ...

    def mark(self) -> Mark:
        """A mark after all that is queued."""
        ...

    def seconds(self, first: Mark, last: Mark) -> float:
        """The time from one mark to another, waiting for both."""
        ...

    def fetch(self, value: Tensor) -> Fetched:
        """Copy a small tensor to the host, as it is at this place of the queue."""
        ...

    def hold(self, tensors: Mapping[str, Tensor]) -> Held:
        """Copy tensors on the device, as they are at this place of the queue."""
        ...

    def bring(self, held: Held) -> dict[str, Tensor]:
        """Copy them to the host next to the queue, waiting for it; on a thread of one's own."""
        ...

    def free_bytes(self) -> int:
        """Memory of the device that is free, not counting what a step takes again and again."""
        ...


@dataclass(frozen=True)
class Moment:
    """A mark of the CPU, which has always passed."""

    seconds: float

    def passed(self) -> bool:
        """True."""
        return True

    def wait(self) -> None:
        """Do nothing: it has passed."""


class HostLane:
    """The lane of the CPU: nothing is staged and nothing is waited for."""

    device = torch.device("cpu")
    asynchronous = False

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Plain memory."""
        return torch.empty(shape, dtype=dtype)

    def send(self, staged: Tensor) -> Sent:
        """A copy."""
        return Sent(staged.clone(), self.mark())

    def receive(self, sent: Sent) -> Tensor:
        """The copy."""
        return sent.tensor

    def mark(self) -> Moment:
        """Now."""
        return Moment(time.perf_counter())

    def seconds(self, first: Mark, last: Mark) -> float:
        """The time from one mark to another."""
        if not isinstance(first, Moment) or not isinstance(last, Moment):
            raise TypeError("marks of another lane")
        return last.seconds - first.seconds

    def fetch(self, value: Tensor) -> Fetched:
        """A copy."""
        return Fetched(value.detach().clone(), self.mark())

    def hold(self, tensors: Mapping[str, Tensor]) -> Held:
        """Copies."""
        return Held({name: value.detach().clone() for name, value in tensors.items()}, self.mark())

    def bring(self, held: Held) -> dict[str, Tensor]:
        """The copies."""
        return held.tensors

    def free_bytes(self) -> int:
        """0: rows stay where they are."""
        return 0


def lane_to(device: torch.device) -> Lane:
    """The lane to a device of this machine."""
    if device.type != "cuda":
        return HostLane()
    from saeserve.core.data.cuda_lane import CudaLane

    return CudaLane(device)
