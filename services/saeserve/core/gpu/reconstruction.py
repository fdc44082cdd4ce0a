"""K4: reconstructions of all prefixes, their errors, and the gradient at the entries.

    y_bg = b_dec + sum over the entries j of the first g groups of f_bj W_dec,i(b,j)
    e_bg = y_b - y_bg;  |e_bg|^2;  r_bg = sum over g' >= g of w_g' e_bg'
    d_bj = <W_dec,i(b,j), r_bg> for the entries j of group g
    low_bg = float16(s r_bg), where s = 2^n brings the largest number of a tile into 32 .. 64

Where inner prefixes see those before them detached, r_bg = w_g e_bg + w_G e_bG, once for g = G.
All weights w but the last one are equal. W_dec may be a float16 copy; then r is also given in
float16, for the gradients of the dictionaries. All sums are float32 either way, and so are e and r.

A program takes a tile of `WIDEST_TILE` columns of a row, and the grid all rows of a tile before
those of the next one. So what has to stay in the L2 cache is one tile of W_dec, and the k rows of a
tile, which the dots take again, are in the L1 cache: k 32, 64: 16, 32 KB in float16. The tiles'
shares of each dot are added afterwards, in their order.

Bytes of B rows of width O with N entries in G groups and T tiles: 4 B O and 4 B O G (5 times as
much where G > 1), 2 B O G in float16, 4 N T of dots; W_dec's rows gathered once, 2 N O in float16,
4 N O in float32, twice where a tile of a row's is larger than `L1_BYTES`. FLOPs: 4 N O and 5 B O G.
A launch. Sums have one order. Entries of value 0 are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.entries import Entries
from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu.scales import power_of_two
from saeserve.core.gpu.shadows import LOW

WIDEST_TILE = 256
AT_ONCE = 2
"""Entries that are added at once; more take registers, and so programs away."""
WARPS = 1
L1_BYTES = 96 * 1024
"""Rows of W_dec of one program that the cache is taken to hold until they are read again."""
EXPONENT = 5
"""The largest number of a tile is scaled to at least 2 to the power of this."""


@dataclass(frozen=True)
class Shares:
    """What the squared errors of the prefixes count in the loss."""

    inner: float = 1.0
    """Weight of each prefix but the last one."""
    last: float = 1.0
    """Weight of the whole; 1 where it is the only one."""
    detach_inner: bool = False


@dataclass(frozen=True)
class Reconstructed:
    """What the pass finds."""

    gradients_NO: Tensor
    """r of row b and group g at place b G + g; all gradients are -2 / (B variance) times as much
    as what is made of it."""
    dots_TN: Tensor
    """What each tile of columns adds to <W_dec, r> at each entry; nothing after the last bag."""
    squares_BGT: Tensor
    """What each tile adds to |e|^2 of row b and prefix g."""
    residual_BO: Tensor
    """e of the prefix that was asked for."""
    low_NO: Tensor
    """s r in float16, or r itself where W_dec was float32."""
    inverses_NT: Tensor
    """1 / s of each row and tile of `WIDEST_TILE` columns; any where r was not rounded."""

    @property
    def to_bias(self) -> Tensor:
        """What each row adds to b_dec's gradient by the reconstruction: the first group's r."""
        groups = self.squares_BGT.shape[1]
        return self.gradients_NO.view(-1, groups, self.gradients_NO.shape[1])[:, 0]


def reconstruct(
    entries: Entries,
    W_FO: Tensor,
    b_O: Tensor,
    target_BO: Tensor,
    shares: Shares,
    residual_of: int = 0,
) -> Reconstructed:
    """Run the pass; `W_FO` is W_dec or its copy in `LOW`, and `residual_of` names the prefix (from
    0) whose residuals are wanted."""
    (rows, width), groups, low = target_BO.shape, entries.groups, W_FO.dtype == LOW
    tile = tile_of(width)
    tiles = triton.cdiv(width, tile)
    gradients_NO = target_BO.new_empty(rows * groups, width)
    # The only prefix has its residuals for gradients.
    residual_BO = gradients_NO if groups == 1 else torch.empty_like(target_BO)
    low_NO = torch.empty_like(gradients_NO, dtype=LOW) if low else gradients_NO
    inverses_NT = target_BO.new_empty(rows * groups, tiles)
    dots_TN = entries.values_N.new_empty(tiles, entries.values_N.numel())
    squares_BGT = target_BO.new_empty(rows, groups, tiles)
    launch(
        reconstruct_kernel,
        (rows, tiles),
        (
            *(entries.values_N, entries.latents_N, entries.starts, W_FO, b_O, target_BO),
            *(gradients_NO, residual_BO, low_NO, inverses_NT, dots_TN, squares_BGT),
            *(groups, width, dots_TN.shape[1], shares.inner, shares.last, residual_of),
        ),
        _work(entries, W_FO, target_BO, tiles),
        LOW=low,
        NESTED=groups > 1,
        DETACH=shares.detach_inner,
        TILE=tile,
        AT_ONCE=AT_ONCE,
        EXPONENT=EXPONENT,
        num_warps=WARPS,
    )
    return Reconstructed(gradients_NO, dots_TN, squares_BGT, residual_BO, low_NO, inverses_NT)


def tile_of(width: int) -> int:
    """Columns that a program takes."""
    return min(WIDEST_TILE, triton.next_power_of_2(width))


def _work(entries: Entries, W_FO: Tensor, target_BO: Tensor, tiles: int) -> Work:
    """The pass's, as the module says."""
    count, groups, (rows, width) = entries.values_N.numel(), entries.groups, target_BO.shape
    errors = (20 if groups > 1 else 4) * groups
    rounded = 2 * groups if W_FO.dtype == LOW else 0
    row_of_tile = W_FO.itemsize * tile_of(width) * triton.cdiv(count, rows)
    return Work(
        bytes=(4 + errors + rounded) * rows * width + 4 * count * tiles,
        flops=4 * count * width + 5 * groups * rows * width,
        gathered=(1 if row_of_tile <= L1_BYTES else 2) * W_FO.itemsize * count * width,
    )


@triton.jit
def _rows_of(
    W: tl.tensor,
    values: tl.tensor,
    latents: tl.tensor,
    j: tl.tensor,
    end: int,
    column: tl.tensor,
    width: int,
) -> tuple[tl.tensor, tl.tensor]:
    """Values of entries j before the end, and a tile of their rows of W; 0 for those of value 0."""
    value = tl.load(values + j, mask=j < end, other=0.0)
    used = (j < end) & (value != 0.0)
    latent = tl.load(latents + j, mask=j < end, other=0).to(tl.int64)
    part = tl.load(
        W + latent[:, None] * width + column[None, :],
        mask=used[:, None] & (column < width)[None, :],
        other=0.0,
    )
    return value, part.to(tl.float32)


@triton.jit
def _gather_up(
    gradients: tl.tensor,
    column: tl.tensor,
    groups: int,
    width: int,
    inner: float,
    last: float,
    DETACH: tl.constexpr,
) -> None:
    """From the errors of a row's prefixes to what the values of each group see, in a tile."""
    here = column < width
    at = gradients + (groups - 1) * width + column
    after = last * tl.load(at, mask=here, other=0.0)
    tl.store(at, after, mask=here)
    # From the last group down, so that the next one holds its sum already.
    for _ in range(1, groups):
        at -= width
        error = inner * tl.load(at, mask=here, other=0.0) + after
        tl.store(at, error, mask=here)
        if not DETACH:
            after = error


@triton.jit
def _round(
    error: tl.tensor,
    low: tl.tensor,
    inverses: tl.tensor,
    column: tl.tensor,
    width: int,
    EXPONENT: tl.constexpr,
) -> None:
    """Write a tile of a row scaled and rounded, and what undoes the scale."""
    scale, inverse = power_of_two(tl.max(tl.abs(error), 0), EXPONENT)
    tl.store(low + column, (scale * error).to(tl.float16), mask=column < width)
    tl.store(inverses, inverse)


@triton.jit
def reconstruct_kernel(
    values: tl.tensor,
    latents: tl.tensor,
    starts: tl.tensor,
    W: tl.tensor,
    bias: tl.tensor,
    target: tl.tensor,
    gradients: tl.tensor,
    residual: tl.tensor,
    low: tl.tensor,
    inverses: tl.tensor,
    dots: tl.tensor,
    squares: tl.tensor,
    groups: int,
    width: int,
    count: int,
    inner: float,
    last: float,
    residual_of: int,
    LOW: tl.constexpr,
    NESTED: tl.constexpr,
    DETACH: tl.constexpr,
    TILE: tl.constexpr,
    AT_ONCE: tl.constexpr,
    EXPONENT: tl.constexpr,
) -> None:
    """A tile of a row a program: first errors, then its share of the dots with what they make."""
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    tiles = tl.num_programs(1)
    column = tile * TILE + tl.arange(0, TILE)
    here = column < width
    goal = tl.load(target + row * width + column, mask=here, other=0.0)
    own = tl.load(bias + column, mask=here, other=0.0)
    total = tl.zeros([AT_ONCE, TILE], tl.float32)
    for group in range(groups):
        bag = row * groups + group
        end = tl.load(starts + bag + 1)
        for first in range(tl.load(starts + bag), end, AT_ONCE):
            j = first + tl.arange(0, AT_ONCE)
            value, part = _rows_of(W, values, latents, j, end, column, width)
            total += value[:, None] * part
        error = goal - (tl.sum(total, 0) + own)
        tl.store(gradients + bag * width + column, error, mask=here)
        tl.store(squares + bag * tiles + tile, tl.sum(error * error, 0))
        if NESTED:
            asked = here & (group == residual_of)
            tl.store(residual + row * width + column, error, mask=asked)
    if NESTED:
        tl.debug_barrier()
        _gather_up(gradients + row * groups * width, column, groups, width, inner, last, DETACH)
    tl.debug_barrier()
    dots += tile.to(tl.int64) * count
    for group in range(groups):
        bag = row * groups + group
        end = tl.load(starts + bag + 1)
        error = tl.load(gradients + bag * width + column, mask=here, other=0.0)
        if LOW:
            at = inverses + bag * tiles + tile
            _round(error, low + bag * width, at, column, width, EXPONENT)
        for first in range(tl.load(starts + bag), end, AT_ONCE):
            j = first + tl.arange(0, AT_ONCE)
            value, part = _rows_of(W, values, latents, j, end, column, width)
            tl.store(dots + j, tl.sum(part * error[None, :], 1), mask=j < end)
