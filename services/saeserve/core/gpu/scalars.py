"""Numbers that change from step to step, in one small tensor on the device.

A launch that a CUDA graph has recorded keeps its arguments, so kernels read such numbers from
memory. One launch writes them before all others of a step, without a copy from the host.

Bytes of n numbers: 4 n. Launches: one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.launch import Work, launch

MOST = 8
"""Numbers that one launch writes."""


def written(numbers: Sequence[float], device: torch.device) -> Tensor:
    """At most MOST numbers as float32, in a new tensor."""
    return write_(torch.empty(len(numbers), device=device), numbers)


def write_(scalars: Tensor, numbers: Sequence[float]) -> Tensor:
    """Write as many numbers as `scalars` holds, at most MOST; returns it. Its memory stays where
    it is, so that a graph finds the new ones there."""
    count = scalars.numel()
    if len(numbers) != count or count > MOST:
        raise ValueError(f"{len(numbers)} numbers for a tensor of {count}; at most {MOST} fit")
    padded = (*map(float, numbers), *[0.0] * (MOST - count))
    launch(write_kernel, (1,), (scalars, count, *padded), Work(bytes=4 * count), num_warps=1)
    return scalars


@triton.jit
def write_kernel(
    scalars: tl.tensor,
    count: int,
    n0: float,
    n1: float,
    n2: float,
    n3: float,
    n4: float,
    n5: float,
    n6: float,
    n7: float,
) -> None:
    """Write the first `count` of them, each in its place."""
    lane = tl.arange(0, 8)
    number = tl.where(lane == 0, n0, tl.where(lane == 1, n1, tl.where(lane == 2, n2, n3)))
    after = tl.where(lane == 4, n4, tl.where(lane == 5, n5, tl.where(lane == 6, n6, n7)))
    tl.store(scalars + lane, tl.where(lane < 4, number, after), mask=lane < count)
