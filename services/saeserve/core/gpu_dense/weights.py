"""A dictionary's gradient from its product with rows: scaled back, with what the norms of its rows
add, or a part that is the same for all rows.

    g_ij = u_i g_ij + c_i M_ij, where M is the dictionary, or one row that all share

Bytes of P numbers: 8 P, and 4 P where M is the dictionary. FLOPs: 4 P. One launch, a row of a
latent a program.
"""

from __future__ import annotations

import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.launch import Work, launch

TILE = 512
WARPS = 2


def finished_(gradient_FD: Tensor, undo: Tensor, along_F: Tensor, M: Tensor) -> Tensor:
    """g of the module's text, in place; `undo` is a number or [F], `M` is [F, D] or [D]."""
    latents, width = gradient_FD.shape
    many = M.ndim == 2
    launch(
        finish_kernel,
        (latents,),
        (gradient_FD, undo, along_F, M, int(undo.ndim > 0), width if many else 0, width),
        Work(bytes=(12 if many else 8) * gradient_FD.numel(), flops=4 * gradient_FD.numel()),
        TILE=TILE,
        num_warps=WARPS,
    )
    return gradient_FD


@triton.jit
def finish_kernel(
    gradient: tl.tensor,
    undo: tl.tensor,
    along: tl.tensor,
    rows: tl.tensor,
    undo_stride: int,
    row_stride: int,
    width: int,
    TILE: tl.constexpr,
) -> None:
    """A latent a program."""
    latent = tl.program_id(0).to(tl.int64)
    own_undo = tl.load(undo + latent * undo_stride)
    own_along = tl.load(along + latent)
    # Tiles of columns.
    for start in range(0, width, TILE):
        column = start + tl.arange(0, TILE)
        here = column < width
        at = latent * width + column
        value = own_undo * tl.load(gradient + at, mask=here, other=0.0)
        other = tl.load(rows + latent * row_stride + column, mask=here, other=0.0)
        tl.store(gradient + at, value + own_along * other, mask=here)
