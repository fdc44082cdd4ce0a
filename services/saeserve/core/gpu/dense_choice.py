"""Which side of a level each pre-activation is on, after a product in low precision: K7's choice.

An entry v of s x W^T in float16 is within m of the exact one but for a chance of 3e-8, where

    m = min(likely, proven) + (rounding) |v|
    proven = |s x_b| lost_i + lost_b |W_i| + (sums) |s x_b| |W_i|                (`kernels.rounding`)
    likely = 6 (|s x_b|_4^2 |lost W_i|_4^2 + |lost x_b|_4^2 |W_i|_4^2)^(1/2) + (sums) S
    S = |v| + 6 |s x_b|_4 |W_i|_4

with 4-norms as in `rows.likely_errors`. S is how large a running sum of products is likely to
become: they come in no particular order, so Hoeffding's inequality holds for it as well (of numbers
drawn without putting them back).

Two launches. The first goes through [B, F] once. It finishes the entries that are farther than m
from all levels, and writes the rows of the others into lists, one for each latent and `EACH` rows.
A list has room for all of its rows. The second goes through the lists: for each of their entries it
computes s <W_i, x_b> in float32 and finishes it. So the sides of entries are those of float32,
whatever the data; how many are listed depends on how dense they lie at the levels. Both have one
order, in which sums are added.

Bytes of B rows, F latents, widths d, with U listed entries: lists 5 B F / `EACH` of counts, written
and read, and what each module says; x's and W's rows 4 d (U + min(U, F B / (`EACH` `PARTS`)))
gathered. FLOPs: 2 d U. `UNSURE` is the share that is counted where no data are at hand.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.dense_rows import Operand
from saeserve.core.gpu.launch import Work

EACH = 128
"""Rows that a program goes through, whose sums are one partial sum of each column; at most 256, so
that lists are bytes."""
COLUMNS = 128
"""Columns of a program."""
WARPS = 1
PARTS = 16
"""Lists that a program of the second launch goes through, of one latent."""
GROUP = 8
"""Entries that are computed again at once."""
TILE = 512
SETTLE_WARPS = 4
UNSURE = 2**-8
"""Share of the entries that are counted as nearer to a level than their margin: about what a start
with a seventh of all entries active has. A trained JumpReLU SAE with an L0 of 64 has a tenth."""


class Lists(NamedTuple):
    """Entries that the first launch leaves to the second."""

    rows_PFE: Tensor
    """Each entry's row less the first of its `EACH` rows; uint8"""
    counts_PF: Tensor
    """Entries of each list; int32"""


def parts_of(rows: int) -> int:
    """Partial sums of a column, and lists of a latent."""
    return triton.cdiv(rows, EACH)


def settling_of(rows: int) -> int:
    """Programs of the second launch for each latent."""
    return triton.cdiv(parts_of(rows), PARTS)


def sums_of(x: Operand) -> int:
    """Partial sums of a column, of both launches."""
    rows = x.rows_XD.shape[0]
    return parts_of(rows) + (0 if x.exact else settling_of(rows))


def lists_of(x: Operand, latents: int) -> Lists:
    """Memory for lists; where products are exact, there are none."""
    rows = x.rows_XD.shape[0]
    shape = (0, 0) if x.exact else (parts_of(rows), latents)
    device = x.rows_XD.device
    return Lists(
        torch.empty(*shape, EACH, dtype=torch.uint8, device=device),
        torch.empty(*shape, dtype=torch.int32, device=device),
    )


def grid_of(rows: int, latents: int) -> tuple[int, int]:
    """Programs that follow each other share rows, which lie in memory as they come."""
    return triton.cdiv(latents, COLUMNS), parts_of(rows)


def settling_grid_of(rows: int, latents: int) -> tuple[int, int]:
    """Programs that follow each other gather from the same `EACH` times `PARTS` rows."""
    return latents, settling_of(rows)


def first_options(x: Operand) -> dict[str, int | bool]:
    """Constants of the first launch's kernels."""
    return {"LOW": not x.exact, "EACH": EACH, "COLUMNS": COLUMNS, "num_warps": WARPS}


def second_options() -> dict[str, int | bool]:
    """Constants of the second launch's kernels."""
    sizes = {"EACH": EACH, "PARTS": PARTS, "GROUP": GROUP, "TILE": TILE}
    return sizes | {"num_warps": SETTLE_WARPS}


def work_of(x: Operand, latents: int, an_entry: int, sums: int, vectors: int) -> Work:
    """Work of the first launch: bytes of each entry, sums and vectors of each latent."""
    rows = x.rows_XD.shape[0]
    again = 0 if x.exact else round(UNSURE * rows * latents)
    counts = 0 if x.exact else 1
    return Work(
        bytes=rows * latents * an_entry
        + 4 * latents * parts_of(rows) * (sums + vectors + counts)
        + again,
        flops=8 * rows * latents,
    )


def settling_work_of(x: Operand, latents: int, an_entry: int, sums: int) -> Work:
    """Work of the second launch: bytes of each listed entry, sums of each latent."""
    rows, depth = x.rows_XD.shape
    again = round(UNSURE * rows * latents)
    programs = latents * settling_of(rows)
    return Work(
        bytes=again * (1 + an_entry) + 4 * latents * parts_of(rows) + 4 * sums * programs,
        flops=2 * depth * again,
        gathered=4 * depth * (again + min(again, programs)),
    )


@triton.jit
def row_of(
    values: tl.tensor, row: int, end: int, latents: int, column: tl.tensor, inside: tl.tensor
) -> tl.tensor:
    """Some columns of a row before `end`."""
    return tl.load(values + row * latents + column, mask=inside & (row < end), other=0.0)


@triton.jit
def rounding_of(
    value: tl.tensor,
    offset: tl.tensor,
    norm: float,
    lost: float,
    fourth: float,
    lost_fourth: float,
    weight_norm: tl.tensor,
    weight_lost: tl.tensor,
    weight_fourth: tl.tensor,
    weight_lost_fourth: tl.tensor,
    additions: float,
    likely_additions: float,
    DEVIATIONS: tl.constexpr,
) -> tl.tensor:
    """m of the module's text, for a row and some latents; `offset` is at least what is added to an
    entry. Not a number where a factor is not."""
    from_sums = weight_lost + additions * weight_norm
    proven = (norm + lost) * from_sums + lost * weight_norm
    by_weights = fourth * weight_lost_fourth
    by_row = lost_fourth * weight_fourth
    # At least the root of the sum of both squares, and equal to it where they are equal.
    both = tl.maximum(by_weights, by_row) + 0.41421357 * tl.minimum(by_weights, by_row)
    running = tl.abs(value) + DEVIATIONS * fourth * weight_fourth
    # What is lost of both factors at once is added twice.
    likely = DEVIATIONS * both + likely_additions * running + 2.0 * lost * from_sums
    # 1.01 2^-11 of the value, or 2^-24 below float16's normal numbers, and 2^-21 for what a few
    # operations in float32 change. Norms and margins are rounded themselves.
    rounding = 4.932e-4 * tl.abs(value) + 5.9604645e-8
    lost_here = tl.minimum(proven, likely)
    return 1.002 * (lost_here + rounding) + 4.7683716e-7 * (tl.abs(value) + offset)


@triton.jit
def many_listed(
    counts: tl.tensor, first: int, parts: int, latents: int, latent: int, PARTS: tl.constexpr
) -> tl.tensor:
    """How many entries each list of a latent has, from part `first` on."""
    part = first + tl.arange(0, PARTS)
    return tl.load(counts + part * latents + latent, mask=part < parts, other=0)


@triton.jit
def listed_rows(
    lists: tl.tensor,
    many: tl.tensor,
    turn: tl.tensor,
    here: tl.tensor,
    first: int,
    latents: int,
    latent: int,
    EACH: tl.constexpr,
) -> tl.tensor:
    """Rows of the entries number `turn` of a latent, in the order of the rows."""
    end = tl.cumsum(many, 0)
    passed = end[None, :] <= turn[:, None]
    part = first + tl.sum(passed.to(tl.int32), 1).to(tl.int64)
    slot = turn - tl.sum(tl.where(passed, many[None, :], 0), 1)
    at = (part * latents + latent) * EACH + slot
    return part * EACH + tl.load(lists + at, mask=here, other=0).to(tl.int64)


@triton.jit
def products_of(
    x: tl.tensor,
    weights: tl.tensor,
    row: tl.tensor,
    here: tl.tensor,
    depth: int,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
) -> tl.tensor:
    """<W_i, x_b> of some rows and the latent at `weights`, in float32."""
    total = tl.zeros([GROUP, TILE], tl.float32)
    # Tiles of the input's columns.
    for begin in range(0, depth, TILE):
        column = begin + tl.arange(0, TILE)
        inside = column < depth
        own = tl.load(weights + column, mask=inside, other=0.0)
        at = row[:, None] * depth + column[None, :]
        values = tl.load(x + at, mask=here[:, None] & inside[None, :], other=0.0)
        total += values * own[None, :]
    return tl.sum(total, 1)


@triton.jit
def kept_positive(value: tl.tensor, LOW: tl.constexpr) -> tl.tensor:
    """Activations from pre-activations: 0 where they are not positive, not a number where they are
    not. Positive ones stay so in float16, to which storing them rounds."""
    active = tl.where(value <= 0.0, 0.0, value)
    if LOW:
        active = tl.where((active > 0.0) & (active < 5.9604645e-8), 5.9604645e-8, active)
    return active
