"""Which side of a level each pre-activation is on, after a product in low precision: K7's choice.

An entry v of s x W^T in float16 is within m of the exact one but for a chance of 3e-8, where

    m = min(likely, proven) + (rounding) |v|
    proven = |s x_b| lost_i + lost_b |W_i| + (sums) |s x_b| |W_i|          (`kernels.rounding`)
    likely = 6 (|s x_b|_4^2 |lost W_i|_4^2 + |lost x_b|_4^2 |W_i|_4^2)^(1/2) + (sums) S
    S = |v| + 6 |s x_b|_4 |W_i|_4

with 4-norms as in `rows.likely_errors`. S is how large a running sum of products is likely to
become: they come in no particular order, so Hoeffding's inequality holds for it as well (of numbers
drawn without putting them back).

Two launches. The first goes through [B, F] once. It finishes the entries that are farther than m
from all levels, and marks the others by a bit each. The second goes through the marks of each
latent: for each marked entry it computes s <W_i, x_b> in float32 and finishes it. So the sides of
entries are those of float32, whatever the data; how many are marked depends on how dense they lie
at the levels. Both have one order, in which sums are added.

Bytes of B rows, F latents, widths d, with U marked entries: B F / 8 of marks written and read, and
what each module says; x's and W's rows 4 d (U + min(U, F B / (32 `WORDS`))) gathered. FLOPs: 2 d U.
`UNSURE` is the share that is counted where no data are at hand.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.launch import Work
from saeserve.core.gpu.rows import DEVIATIONS
from saeserve.core.gpu_dense.rows import Operand

EACH = 128
"""Rows that a program goes through, whose sums are one partial sum of each column: a multiple of
BITS."""
BITS = 32
"""Rows whose marks are one number."""
COLUMNS = 128
"""Columns of a program."""
WARPS = 1
WORDS = 64
"""Numbers of marks of one latent that a program of the second launch goes through."""
TILE = 1024
"""Numbers of a row that it multiplies at once."""
SETTLE_WARPS = 1
UNSURE = 2**-8
"""Share of the entries that are counted as nearer to a level than their margin: about what a start
with a seventh of all entries active has. A trained JumpReLU SAE with an L0 of 64 has a tenth."""


def parts_of(rows: int) -> int:
    """Partial sums of a column in the first launch."""
    return triton.cdiv(rows, EACH)


def words_of(rows: int) -> int:
    """Numbers of marks of each latent."""
    return triton.cdiv(rows, BITS)


def settling_of(rows: int) -> int:
    """Programs of the second launch for each latent."""
    return triton.cdiv(words_of(rows), WORDS)


def sums_of(x: Operand) -> int:
    """Partial sums of a column, of both launches."""
    rows = x.rows_XD.shape[0]
    return parts_of(rows) + (0 if x.exact else settling_of(rows))


def marks_of(x: Operand, latents: int) -> Tensor:
    """Memory for marks [rows / BITS, F], int32; where products are exact, there are none."""
    words = 0 if x.exact else words_of(x.rows_XD.shape[0])
    return torch.empty(words, latents, dtype=torch.int32, device=x.rows_XD.device)


def grid_of(rows: int, latents: int) -> tuple[int, int]:
    """Programs that follow each other share rows, which lie in memory as they come."""
    return triton.cdiv(latents, COLUMNS), parts_of(rows)


def settling_grid_of(rows: int, latents: int) -> tuple[int, int]:
    """Programs that follow each other gather from the same rows."""
    return latents, settling_of(rows)


def first_options(x: Operand) -> dict[str, int | bool]:
    """Constants of the first launch's kernels."""
    sizes = {"EACH": EACH, "BITS": BITS, "COLUMNS": COLUMNS}
    return {"LOW": not x.exact, "DEVIATIONS": DEVIATIONS} | sizes | {"num_warps": WARPS}


def second_options() -> dict[str, int | bool]:
    """Constants of the second launch's kernels."""
    sizes = {"BITS": BITS, "WORDS": WORDS, "TILE": TILE}
    return sizes | {"num_warps": SETTLE_WARPS}


def work_of(x: Operand, latents: int, an_entry: int, sums: int, vectors: int) -> Work:
    """Work of the first launch: bytes of each entry, sums and vectors of each latent."""
    rows = x.rows_XD.shape[0]
    marks = 0 if x.exact else 4 * latents * words_of(rows)
    vectors_and_sums = 4 * latents * parts_of(rows) * (sums + vectors)
    return Work(
        bytes=rows * latents * an_entry + vectors_and_sums + marks, flops=8 * rows * latents
    )


def settling_work_of(x: Operand, latents: int, an_entry: int, sums: int) -> Work:
    """Work of the second launch: bytes of each listed entry, sums of each latent."""
    rows, depth = x.rows_XD.shape
    again = round(UNSURE * rows * latents)
    programs = latents * settling_of(rows)
    return Work(
        bytes=again * an_entry + 4 * latents * words_of(rows) + 4 * sums * programs,
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
def norms_at(
    norms: tl.tensor,
    lost: tl.tensor,
    fourths: tl.tensor,
    lost_fourths: tl.tensor,
    column: tl.tensor,
    inside: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The four norms of some latents."""
    return (
        tl.load(norms + column, mask=inside, other=0.0),
        tl.load(lost + column, mask=inside, other=0.0),
        tl.load(fourths + column, mask=inside, other=0.0),
        tl.load(lost_fourths + column, mask=inside, other=0.0),
    )


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
def ones_of(bits: tl.tensor) -> tl.tensor:
    """How many bits of a uint32 are set."""
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    bits = bits + (bits >> 8)
    return ((bits + (bits >> 16)) & 0x3F).to(tl.int32)


@triton.jit
def marks_at(
    marks: tl.tensor, first: int, words: int, latents: int, latent: int, WORDS: tl.constexpr
) -> tl.tensor:
    """Words of bits of a latent from number `first` on."""
    word = first + tl.arange(0, WORDS)
    bits = tl.load(marks + word * latents + latent, mask=word < words, other=0)
    return bits.to(tl.uint32, bitcast=True)


@triton.jit
def next_marked(bits: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """The first mark of those left, and those left after it."""
    word = tl.arange(0, bits.shape[0])
    lowest = ones_of((bits ^ (bits - 1)) >> 1)
    found = tl.min(tl.where(bits != 0, word * BITS + lowest, 2147483647), 0)
    return found, tl.where(word == found // BITS, bits & (bits - 1), bits)


@triton.jit
def product_of(x: tl.tensor, weights: tl.tensor, depth: int, TILE: tl.constexpr) -> tl.tensor:
    """<W_i, x_b> of the row at `x` and the latent at `weights`, in float32."""
    total = tl.zeros([TILE], tl.float32)
    # Tiles of the input's columns.
    for begin in range(0, depth, TILE):
        column = begin + tl.arange(0, TILE)
        inside = column < depth
        values = tl.load(x + column, mask=inside, other=0.0)
        total += values * tl.load(weights + column, mask=inside, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def kept_positive(value: tl.tensor, LOW: tl.constexpr) -> tl.tensor:
    """Activations from pre-activations: 0 where they are not positive, not a number where they are
    not. Positive ones stay so in float16, to which storing them rounds."""
    active = tl.where(value <= 0.0, 0.0, value)
    if LOW:
        active = tl.where((active > 0.0) & (active < 5.9604645e-8), 5.9604645e-8, active)
    return active
