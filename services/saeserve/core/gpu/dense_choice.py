"""Which side of a level each pre-activation is on, after a product in low precision: K7's choice.

An entry v of s x W^T in float16 is within m of the exact one, where (`kernels.rounding`)

    m = |s x_b| lost_i + lost_b |W_i| + (sums) |s x_b| |W_i| + (rounding) |v|

An entry nearer than m to a level, as the threshold or an edge of the band, is computed again:
s <W_i, x_b> in float32, in one order. So active latents, and those in the band, are the ones of
float32 whatever the data; how many entries that takes depends on how dense they lie there. A
product whose rows are long at a given spread of pre-activations takes more.

With U entries computed again: bytes gathered 5 d U (4 d of weights, and the row once for `GROUP`
entries), FLOPs 2 d U. ReLU and gated SAEs, of which nothing depends on every single entry, take six
deviations of the error in place of the bound where that is less: rounding errors are independent,
so theirs is at most max_j |s x_bj| (lost_i^2 + (2.83e-4 |W_i|)^2)^(1/2), and a row that one
coordinate dominates keeps the bound. `UNSURE` is the share that is counted where no data are at
hand.
"""

from __future__ import annotations

import triton
from triton import language as tl

from saeserve.core.gpu.dense_rows import Operand
from saeserve.core.gpu.launch import Work

EACH = 64
"""Rows that a program goes through, whose sums are one partial sum of each column."""
COLUMNS = 128
"""Columns of a program."""
WARPS = 1
GROUP = 4
"""Entries that are computed again at once."""
TILE = 64
UNSURE = 2**-7
"""Share of the entries that are counted as nearer to a level than their margin: about what a start
with half of all entries active has. A trained JumpReLU SAE with an L0 of 64 has a tenth of it."""


def parts_of(rows: int) -> int:
    """Partial sums of a column."""
    return triton.cdiv(rows, EACH)


def grid_of(rows: int, latents: int) -> tuple[int, int]:
    """Programs with the same columns follow each other, for they gather the same weights."""
    return parts_of(rows), triton.cdiv(latents, COLUMNS)


def work_of(x: Operand, latents: int, an_entry: int, sums: int, vectors: int) -> Work:
    """Work of a pass that chooses: bytes of each entry, sums and vectors of each latent."""
    rows, depth = x.rows_XD.shape
    again = 0 if x.exact else round(UNSURE * rows * latents)
    return Work(
        bytes=rows * latents * an_entry + 4 * latents * parts_of(rows) * (sums + vectors),
        flops=8 * rows * latents + 2 * depth * again,
        gathered=(4 + 4 // GROUP) * depth * again,
    )


@triton.jit
def proven(
    norm: float,
    row_lost: float,
    weight_norm: tl.tensor,
    weight_lost: tl.tensor,
    additions: float,
) -> tl.tensor:
    """What rounded factors and sums can change at most."""
    return (norm + row_lost) * (weight_lost + additions * weight_norm) + row_lost * weight_norm


@triton.jit
def usual(
    norm: float, most: float, weight_norm: tl.tensor, weight_lost: tl.tensor, additions: float
) -> tl.tensor:
    """Six deviations of the same, for a row whose largest number is `most`."""
    each = tl.sqrt(weight_lost * weight_lost + 8.0e-8 * weight_norm * weight_norm)
    return 6.0 * most * each + additions * norm * weight_norm


@triton.jit
def margin(value: tl.tensor, offset: tl.tensor, lost: tl.tensor) -> tl.tensor:
    """How far an entry may be from the exact one, by what factors and sums have lost; `offset` is
    at least what is added to it."""
    # 1.01 2^-11 of the value, or 2^-24 below float16's normal numbers, and 2^-21 for what a few
    # operations in float32 change. Norms and margins are rounded themselves.
    rounding = 4.932e-4 * tl.abs(value) + 5.9604645e-8
    return 1.002 * (lost + rounding) + 4.7683716e-7 * (tl.abs(value) + offset)


@triton.jit
def computed_again(
    value: tl.tensor,
    unsure: tl.tensor,
    first: int,
    x: tl.tensor,
    W: tl.tensor,
    depth: int,
    scale: float,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
) -> tl.tensor:
    """Entries of the row at `x` and latents first .. first + COLUMNS, with scale <W_i, x> where
    they are unsure."""
    rank = unsure.to(tl.int32)
    many = tl.sum(rank, 0)
    if many > 0:
        rank = tl.cumsum(rank, 0)
    latent_here = first + tl.arange(0, COLUMNS)
    # A few unsure entries in a turn, in the order of their latents.
    for start in range(0, many, GROUP):
        turn = start + 1 + tl.arange(0, GROUP)
        hit = unsure[None, :] & (rank[None, :] == turn[:, None])
        latent = tl.sum(tl.where(hit, latent_here[None, :], 0), 1).to(tl.int64)
        total = tl.zeros([GROUP, TILE], tl.float32)
        # Tiles of the input's columns.
        for begin in range(0, depth, TILE):
            column = begin + tl.arange(0, TILE)
            here = column < depth
            own = tl.load(x + column, mask=here, other=0.0)
            weights = tl.load(
                W + latent[:, None] * depth + column[None, :],
                mask=(turn <= many)[:, None] & here[None, :],
                other=0.0,
            )
            total += weights * own[None, :]
        exact = scale * tl.sum(total, 1)
        found = tl.sum(tl.where(hit, exact[:, None], 0.0), 0)
        value = tl.where(tl.sum(hit.to(tl.int32), 0) > 0, found, value)
    return value


@triton.jit
def kept_positive(value: tl.tensor, LOW: tl.constexpr) -> tl.tensor:
    """Activations from pre-activations: 0 where they are not positive, not a number where they are
    not. Positive ones stay so in float16, to which storing them rounds."""
    active = tl.where(value <= 0.0, 0.0, value)
    if LOW:
        active = tl.where((active > 0.0) & (active < 5.9604645e-8), 5.9604645e-8, active)
    return active
