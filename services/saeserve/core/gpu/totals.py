"""Sums over a whole batch that a step reports or adds to a vector, in few launches.

    columns: sum_b w_b A_b of some matrices together, or sum_b A_b and sum_b A_b^2
    losses: of the squared errors |e_bg|^2 of all prefixes g the terms of the loss, and
        c = -2 / (B variance), the scale of the gradients; NaN where rows or biases are not finite
    batch: sum_b |y_b - mean y|^2 and the number of active entries
    silent: for each latent the tokens since it fired, in two counters

Partial sums are float32, of `EACH` rows, and are added in float64, in one order. One program adds
what are some ten thousand numbers.

Bytes of a matrix [B, d]: 4 B d, and 12 B d / EACH; of B rows in G prefixes and T tiles and of m
latents 4 B G T + 4 B + 4 m, 8 m + 16 d, and 40 m. FLOPs: 2 B d, and one a number. Launches: one a
matrix and one for all of them; one each.
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
BLOCK, WARPS = 8192, 32
"""Numbers that the one program reads at once."""
LATENTS = 1024
"""Latents that a program counts."""


class Piece(NamedTuple):
    """What is added of one matrix."""

    rows_XD: Tensor
    """Its rows may lie apart."""
    weights_X: Tensor
    """w of each row, or one for all."""
    factor: float = 1.0
    """Multiplies all weights."""


class Losses(NamedTuple):
    """float64 scalars on the device, but for `scale`."""

    loss: Tensor
    inner: Tensor
    """What the prefixes but the last one add."""
    last: Tensor
    squared_error: Tensor
    """Of the prefix that was asked for."""
    nothing: Tensor
    """0"""
    scale: Tensor
    """c, float32"""


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


def losses(
    squares_BGT: Tensor,
    finite: tuple[Tensor, Tensor],
    variance: Tensor,
    shares: tuple[float, float],
    proper: int,
) -> Losses:
    """`finite` are numbers that the loss shows if they are not; `shares` the weights of each inner
    prefix and of the last; `proper` (from 0) is the one whose squared error is asked for."""
    (rows, groups, tiles), (norms_B, b_F) = squares_BGT.shape, finite
    out = squares_BGT.new_empty(len(Losses._fields) - 1, dtype=torch.float64)
    scale = squares_BGT.new_empty(())
    numbers = squares_BGT.numel() + norms_B.numel() + b_F.numel()
    launch(
        losses_kernel,
        (1,),
        (
            *(squares_BGT, norms_B, b_F, variance, out, scale),
            *(rows, groups, tiles, b_F.numel(), *shares, proper),
        ),
        Work(bytes=4 * numbers, flops=numbers),
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return Losses(*out.unbind(), scale)


def batch(squares_O: Tensor, sum_O: Tensor, fired_F: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Variation of the target's rows around their mean, from `moments`, and active entries; float64
    scalars."""
    out = sum_O.new_empty(2)
    width, latents = sum_O.numel(), fired_F.numel()
    launch(
        batch_kernel,
        (1,),
        (squares_O, sum_O, fired_F, out, width, latents, rows),
        Work(bytes=16 * width + 8 * latents, flops=3 * width),
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return out[0], out[1]


def silent_(counters: tuple[Tensor, Tensor], fired_F: Tensor, tokens: int) -> None:
    """Count a batch in both int64 counters: 0 where a latent fired, `tokens` more elsewhere."""
    latents = fired_F.numel()
    launch(
        silent_kernel,
        (triton.cdiv(latents, LATENTS),),
        (*counters, fired_F, latents, tokens),
        Work(bytes=40 * latents),
        BLOCK=LATENTS,
    )


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


@triton.jit
def _sum(numbers: tl.tensor, count: int, BLOCK: tl.constexpr) -> tl.tensor:
    """The sum of numbers in float64."""
    total = tl.zeros([BLOCK], tl.float64)
    # Blocks of numbers.
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(numbers + at, mask=at < count, other=0.0).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def losses_kernel(
    squares: tl.tensor,
    norms: tl.tensor,
    bias: tl.tensor,
    variance: tl.tensor,
    out: tl.tensor,
    scale: tl.tensor,
    rows: int,
    groups: int,
    tiles: int,
    latents: int,
    inner_share: float,
    last_share: float,
    proper: int,
    BLOCK: tl.constexpr,
) -> None:
    """All that one program adds."""
    weight = 1.0 / (tl.load(variance).to(tl.float64) * rows)
    # Numbers that are not finite become NaN.
    wrong = 0.0 * (_sum(norms, rows, BLOCK) + _sum(bias, latents, BLOCK))
    # One number each, as blocks: a scalar would change its type in the loop.
    one = tl.arange(0, 1)
    inner = tl.zeros([1], tl.float64)
    last = tl.zeros([1], tl.float64)
    asked = tl.zeros([1], tl.float64)
    for group in range(groups):
        total = tl.zeros([BLOCK], tl.float64)
        # The group's tiles of all rows.
        for start in range(0, rows * tiles, BLOCK):
            number = start + tl.arange(0, BLOCK)
            at = ((number // tiles) * groups + group) * tiles + number % tiles
            here = number < rows * tiles
            total += tl.load(squares + at, mask=here, other=0.0).to(tl.float64)
        found = tl.sum(total, 0)
        inner += tl.where(group < groups - 1, found, 0.0)
        last += tl.where(group == groups - 1, found, 0.0)
        asked += tl.where(group == proper, found, 0.0)
    inner = wrong + inner_share * weight * inner
    last = last_share * weight * last
    tl.store(out + one, inner + last)
    tl.store(out + 1 + one, inner)
    tl.store(out + 2 + one, last)
    tl.store(out + 3 + one, asked)
    tl.store(out + 4, 0.0)
    tl.store(scale, (-2.0 * weight).to(tl.float32))


@triton.jit
def batch_kernel(
    squares: tl.tensor,
    sums: tl.tensor,
    fired: tl.tensor,
    out: tl.tensor,
    width: int,
    latents: int,
    rows: int,
    BLOCK: tl.constexpr,
) -> None:
    """All that one program adds."""
    means = tl.zeros([BLOCK], tl.float64)
    # Blocks of columns.
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        number = tl.load(sums + at, mask=at < width, other=0.0)
        means += number * number
    tl.store(out, _sum(squares, width, BLOCK) - tl.sum(means, 0) / rows)
    tl.store(out + 1, _sum(fired, latents, BLOCK))


@triton.jit
def silent_kernel(
    first: tl.tensor,
    second: tl.tensor,
    fired: tl.tensor,
    latents: int,
    tokens: int,
    BLOCK: tl.constexpr,
) -> None:
    """Some latents a program."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = at < latents
    active = tl.load(fired + at, mask=here, other=0) != 0
    longer = tl.load(first + at, mask=here, other=0) + tokens
    tl.store(first + at, tl.where(active, 0, longer), mask=here)
    longer = tl.load(second + at, mask=here, other=0) + tokens
    tl.store(second + at, tl.where(active, 0, longer), mask=here)
