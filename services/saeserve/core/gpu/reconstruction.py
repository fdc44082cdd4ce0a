"""K4: reconstructions from k entries a row, their errors, and the gradient at the entries.

    r_b = y_b - b_dec - sum over j of f_bj W_dec,i(b,j);  |r_b|^2;  d_bj = <W_dec,i(b,j), r_b>

Bytes of B rows of width d: 12 B d, and 8 B k d gathered: each decoder row twice, the second time
soon after the first. FLOPs: 4 B k d. One launch; a program takes a row, whose sums have one order.
Entries of value 0 are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.choice import Chosen

WIDEST_TILE = 256
AT_ONCE = 4
"""Entries that are added at once."""
WARPS = 2


@dataclass(frozen=True)
class Reconstructed:
    """What the pass finds."""

    residual_BO: Tensor
    """r = y - y^"""
    dots_BK: Tensor
    """<W_dec, r>: the gradient at each value is -2 / (B variance) times as much."""
    squares_B: Tensor
    """|r|^2"""


def reconstruct(chosen: Chosen, W_FO: Tensor, b_O: Tensor, target_BO: Tensor) -> Reconstructed:
    """Run the pass."""
    (rows, k), width = chosen.values_BK.shape, W_FO.shape[1]
    found = Reconstructed(
        torch.empty_like(target_BO), torch.empty_like(chosen.values_BK), target_BO.new_empty(rows)
    )
    reconstruct_kernel[(rows,)](
        *(chosen.values_BK, chosen.latents_BK, W_FO, b_O, target_BO),
        *(found.residual_BO, found.dots_BK, found.squares_B, k, width),
        TILE=min(WIDEST_TILE, triton.next_power_of_2(width)),
        AT_ONCE=AT_ONCE,
        num_warps=WARPS,
    )
    return found


@triton.jit
def reconstruct_kernel(
    values: tl.tensor,
    latents: tl.tensor,
    W: tl.tensor,
    bias: tl.tensor,
    target: tl.tensor,
    residual: tl.tensor,
    dots: tl.tensor,
    squares: tl.tensor,
    k: int,
    width: int,
    TILE: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """A row a program: first its error, then the dots with it."""
    row = tl.program_id(0).to(tl.int64)
    square = tl.zeros([TILE], tl.float32)
    for start in range(0, width, TILE):
        column = start + tl.arange(0, TILE)
        here = column < width
        total = tl.zeros([AT_ONCE, TILE], tl.float32)
        for first in range(0, k, AT_ONCE):
            j = first + tl.arange(0, AT_ONCE)
            value = tl.load(values + row * k + j, mask=j < k, other=0.0)
            used = (j < k) & (value != 0.0)
            latent = tl.load(latents + row * k + j, mask=used, other=0).to(tl.int64)
            part = tl.load(
                W + latent[:, None] * width + column[None, :],
                mask=used[:, None] & here[None, :],
                other=0.0,
            )
            total += value[:, None] * part
        at = row * width + column
        error = tl.load(target + at, mask=here, other=0.0)
        error -= tl.sum(total, 0) + tl.load(bias + column, mask=here, other=0.0)
        tl.store(residual + at, error, mask=here)
        square += error * error
    tl.store(squares + row, tl.sum(square, 0))
    tl.debug_barrier()
    for first in range(0, k, AT_ONCE):
        j = first + tl.arange(0, AT_ONCE)
        value = tl.load(values + row * k + j, mask=j < k, other=0.0)
        used = (j < k) & (value != 0.0)
        latent = tl.load(latents + row * k + j, mask=used, other=0).to(tl.int64)
        total = tl.zeros([AT_ONCE, TILE], tl.float32)
        for start in range(0, width, TILE):
            column = start + tl.arange(0, TILE)
            here = column < width
            error = tl.load(residual + row * width + column, mask=here, other=0.0)
            part = tl.load(
                W + latent[:, None] * width + column[None, :],
                mask=used[:, None] & here[None, :],
                other=0.0,
            )
            total += part * error[None, :]
        tl.store(dots + row * k + j, tl.sum(total, 1), mask=j < k)
