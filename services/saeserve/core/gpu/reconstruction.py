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
from saeserve.core.gpu.launch import Work, launch

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
    numbers = rows * width
    launch(
        reconstruct_kernel,
        (rows,),
        (
            *(chosen.values_BK, chosen.latents_BK, W_FO, b_O, target_BO),
            *(found.residual_BO, found.dots_BK, found.squares_B, k, width),
        ),
        Work(bytes=12 * numbers, flops=4 * k * numbers, gathered=8 * k * numbers),
        TILE=min(WIDEST_TILE, triton.next_power_of_2(width)),
        AT_ONCE=AT_ONCE,
        num_warps=WARPS,
    )
    return found


@triton.jit
def _entries(
    values: tl.tensor,
    latents: tl.tensor,
    row: tl.tensor,
    k: int,
    first: int,
    AT_ONCE: tl.constexpr,
) -> tl.tensor:
    """Entries of a row from `first` on: their places, values, whether they are used, latents."""
    j = first + tl.arange(0, AT_ONCE)
    value = tl.load(values + row * k + j, mask=j < k, other=0.0)
    used = (j < k) & (value != 0.0)
    return j, value, used, tl.load(latents + row * k + j, mask=used, other=0).to(tl.int64)


@triton.jit
def _tiles(
    W: tl.tensor, latent: tl.tensor, used: tl.tensor, width: int, column: tl.tensor
) -> tl.tensor:
    """Columns of the rows of these latents; 0 where an entry is not used."""
    return tl.load(
        W + latent[:, None] * width + column[None, :],
        mask=used[:, None] & (column < width)[None, :],
        other=0.0,
    )


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
            _, value, used, latent = _entries(values, latents, row, k, first, AT_ONCE)
            part = _tiles(W, latent, used, width, column)
            total += value[:, None] * part
        at = row * width + column
        error = tl.load(target + at, mask=here, other=0.0)
        error -= tl.sum(total, 0) + tl.load(bias + column, mask=here, other=0.0)
        tl.store(residual + at, error, mask=here)
        square += error * error
    tl.store(squares + row, tl.sum(square, 0))
    tl.debug_barrier()
    for first in range(0, k, AT_ONCE):
        j, _, used, latent = _entries(values, latents, row, k, first, AT_ONCE)
        total = tl.zeros([AT_ONCE, TILE], tl.float32)
        for start in range(0, width, TILE):
            column = start + tl.arange(0, TILE)
            error = tl.load(residual + row * width + column, mask=column < width, other=0.0)
            part = _tiles(W, latent, used, width, column)
            total += part * error[None, :]
        tl.store(dots + row * k + j, tl.sum(total, 1), mask=j < k)
