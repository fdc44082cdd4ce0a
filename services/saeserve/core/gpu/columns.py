"""Sums over the rows of matrices: weighted ones of several together, or numbers and squares.

    columns: sum_b w_b A_b, of some matrices A;  moments: sum_b A_b and sum_b A_b^2

Partial sums are float32, of `EACH` rows; they are added in float64, in one order.

Bytes of a matrix [B, d]: 4 B d, and 8 B d / EACH of partial sums. FLOPs: 2 B d. Launches: one a
matrix, and one that adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.launch import Work, launch

EACH, AT_ONCE, TILE = 128, 16, 128
"""Rows of a partial sum, those that are read at once, and columns of a program."""
PARTS, NARROW = 64, 32
"""Partial sums that are read at once, and columns of the program that adds them."""


class Piece(NamedTuple):
    """What is added of one matrix."""

    rows_XD: Tensor
    """Its rows may lie apart."""
    weights_X: Tensor
    """w of each row, or one for all."""
    factor: float = 1.0
    """Multiplies all weights."""


def columns(pieces: Sequence[Piece]) -> Tensor:
    """The weighted sums of all rows of matrices of one width, [D]."""
    first = pieces[0].rows_XD
    blocks = [triton.cdiv(piece.rows_XD.shape[0], EACH) for piece in pieces]
    parts_PD = first.new_empty(sum(blocks), first.shape[1])
    start = 0
    for piece, many in zip(pieces, blocks, strict=True):
        _parts(piece.rows_XD, parts_PD[start : start + many], piece)
        start += many
    return _joined(parts_PD[None], first.dtype)[0]


def moments(rows_XD: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of squares and of numbers of each column, [D] in float64."""
    count, width = rows_XD.shape
    parts_2PD = rows_XD.new_empty(2, triton.cdiv(count, EACH), width)
    _parts(rows_XD, parts_2PD, None)
    sum_D, squares_D = _joined(parts_2PD, torch.float64)
    return squares_D, sum_D


def _parts(rows_XD: Tensor, parts_PD: Tensor, piece: Piece | None) -> None:
    """Partial sums of a piece, or those of numbers and of squares."""
    (count, width), stride = rows_XD.shape, rows_XD.stride(0)
    weights, factor = (rows_XD, 1.0) if piece is None else (piece.weights_X, piece.factor)
    launch(
        columns_kernel,
        (triton.cdiv(count, EACH), triton.cdiv(width, TILE)),
        (rows_XD, weights, parts_PD, count, width, stride, min(1, weights.ndim), factor),
        Work(bytes=4 * (count * width + parts_PD.numel()), flops=2 * count * width),
        MOMENTS=piece is None,
        EACH=EACH,
        AT_ONCE=AT_ONCE,
        TILE=TILE,
    )


def _joined(parts_SPD: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums [S, D] of the partial ones."""
    sums, many, width = parts_SPD.shape
    out_SD = parts_SPD.new_empty(sums, width, dtype=dtype)
    launch(
        joined_kernel,
        (triton.cdiv(width, NARROW), sums),
        (parts_SPD, out_SD, many, width),
        Work(bytes=4 * parts_SPD.numel() + out_SD.nbytes, flops=parts_SPD.numel()),
        AT_ONCE=PARTS,
        TILE=NARROW,
    )
    return out_SD


@triton.jit
def columns_kernel(
    rows: tl.tensor,
    weights: tl.tensor,
    parts: tl.tensor,
    count: int,
    width: int,
    stride: int,
    step: int,
    factor: float,
    MOMENTS: tl.constexpr,
    EACH: tl.constexpr,
    AT_ONCE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Some rows of a tile of columns a program."""
    block = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = tl.zeros([AT_ONCE, TILE], tl.float32)
    squares = tl.zeros([AT_ONCE, TILE], tl.float32)
    # Unrolled, so that many loads are under way.
    for start in tl.static_range(0, EACH, AT_ONCE):
        row = block * EACH + start + tl.arange(0, AT_ONCE)
        here = (row < count)[:, None] & (column < width)[None, :]
        values = tl.load(rows + row[:, None] * stride + column[None, :], mask=here, other=0.0)
        if MOMENTS:
            squares += values * values
        else:
            weight = factor * tl.load(weights + row * step, mask=row < count, other=0.0)
            values *= weight[:, None]
        total += values
    at = parts + block * width + column
    tl.store(at, tl.sum(total, 0), mask=column < width)
    if MOMENTS:
        at += tl.num_programs(0).to(tl.int64) * width
        tl.store(at, tl.sum(squares, 0), mask=column < width)


@triton.jit
def joined_kernel(
    parts: tl.tensor,
    out: tl.tensor,
    many: int,
    width: int,
    AT_ONCE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """A tile of columns of one of the sums a program."""
    which = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    total = tl.zeros([AT_ONCE, TILE], tl.float64)
    # Blocks of rows.
    for start in range(0, many, AT_ONCE):
        row = start + tl.arange(0, AT_ONCE)
        here = (row < many)[:, None] & (column < width)[None, :]
        at = (which * many + row)[:, None] * width + column[None, :]
        total += tl.load(parts + at, mask=here, other=0.0).to(tl.float64)
    found = tl.sum(total, 0).to(out.dtype.element_ty)
    tl.store(out + which * width + column, found, mask=column < width)
