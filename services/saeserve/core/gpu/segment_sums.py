"""Parts of K5's kernels: the sums over entries of one latent, for a tile of columns, and what is
written of them. Formulas and work are said in `segments`."""

from __future__ import annotations

import triton
from triton import language as tl

from saeserve.core.gpu.reconstruction import tile_of

WIDE = 2048
"""Rows from this length on are summed by two tiles of `reconstruction` together."""


def columns_of(width: int) -> int:
    """Columns that a program sums."""
    return tile_of(width) * (2 if width >= WIDE and width % (2 * tile_of(width)) == 0 else 1)


@triton.jit
def _errors_of(
    residual: tl.tensor,
    inverses: tl.tensor,
    bag: tl.tensor,
    used: tl.tensor,
    column: tl.tensor,
    width: int,
    tiles: int,
    LOW: tl.constexpr,
    SCALED: tl.constexpr,
) -> tl.tensor:
    """A tile of the rows of r, of which `SCALED` columns each have a scale of their own."""
    part = tl.load(
        residual + bag.to(tl.int64)[:, None] * width + column[None, :],
        mask=used[:, None] & (column < width)[None, :],
        other=0.0,
    ).to(tl.float32)
    if LOW:
        # Columns beyond r's last tile are all masked.
        own = tl.minimum(column // SCALED, tiles - 1)
        at = bag.to(tl.int64)[:, None] * tiles + own[None, :]
        part *= tl.load(inverses + at, mask=used[:, None], other=0.0)
    return part


@triton.jit
def _inputs_of(
    x: tl.tensor,
    low: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    row: tl.tensor,
    used: tl.tensor,
    column: tl.tensor,
    width: int,
    LOW: tl.constexpr,
) -> tl.tensor:
    """A tile of the rows of x, from their copies where these hold them."""
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    inside = (column < width)[None, :]
    if LOW:
        # Before it is known whether they hold the rows, so that one load does not wait for another.
        part = tl.load(low + at, mask=used[:, None] & inside, other=0.0).to(tl.float32)
        norm = tl.load(norms + row, mask=used, other=0.0)
        # Twice what rounding takes at most. Asked this way round, rows that are not finite are read
        # in float32.
        held = tl.load(lost + row, mask=used, other=0.0) <= norm * (1.0 / 1024.0)
        wide = used & (held == 0)
        if tl.max(wide.to(tl.int32), 0) > 0:
            exact = tl.load(x + at, mask=wide[:, None] & inside, other=0.0)
            part = tl.where(wide[:, None], exact, part)
    else:
        part = tl.load(x + at, mask=used[:, None] & inside, other=0.0)
    return part


@triton.jit
def sum_tile(
    start: int,
    stop: int,
    bags: tl.tensor,
    values: tl.tensor,
    dots: tl.tensor,
    residual: tl.tensor,
    inverses: tl.tensor,
    x: tl.tensor,
    low: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    column: tl.tensor,
    d_out: int,
    d_in: int,
    tiles: int,
    groups: int,
    fired_groups: int,
    LOW: tl.constexpr,
    TILE: tl.constexpr,
    AT_ONCE: tl.constexpr,
    SCALED: tl.constexpr,
) -> tl.tensor:
    """Over sorted entries start .. stop: sum f r, sum d x, sum d, and how many fired."""
    dec = tl.zeros([TILE], tl.float32)
    enc = tl.zeros([TILE], tl.float32)
    bias = tl.zeros([AT_ONCE], tl.float32)
    fired = tl.zeros([AT_ONCE], tl.float32)
    for first in range(start, stop, AT_ONCE):
        at = first + tl.arange(0, AT_ONCE)
        value = tl.load(values + at, mask=at < stop, other=0.0)
        used = (at < stop) & (value != 0.0)
        bag = tl.load(bags + at, mask=at < stop, other=0)
        row = bag // groups
        dot = tl.load(dots + at, mask=at < stop, other=0.0)
        # That of an unused entry may be anything.
        dot = tl.where(used, dot, 0.0)
        r_part = _errors_of(residual, inverses, bag, used, column, d_out, tiles, LOW, SCALED)
        x_part = _inputs_of(x, low, norms, lost, row, used, column, d_in, LOW)
        dec += tl.sum(value[:, None] * r_part, 0)
        enc += tl.sum(dot[:, None] * x_part, 0)
        bias += dot
        fired += ((value > 0.0) & (bag - row * groups < fired_groups)).to(tl.float32)
    return dec, enc, tl.sum(bias, 0), tl.sum(fired, 0)


@triton.jit
def store_tile(
    W_dec: tl.tensor,
    W_enc: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    dec: tl.tensor,
    enc: tl.tensor,
    d_out: int,
    d_in: int,
) -> None:
    """Write a tile of a row of each of two matrices, which may differ in width."""
    tl.store(W_dec + row * d_out + column, dec, mask=column < d_out)
    tl.store(W_enc + row * d_in + column, enc, mask=column < d_in)


@triton.jit
def measure_tile(
    weights: tl.tensor,
    moments: tl.tensor,
    latent: tl.tensor,
    tile: tl.tensor,
    column: tl.tensor,
    dec: tl.tensor,
    enc: tl.tensor,
    d_out: int,
    latents: int,
) -> None:
    """Write what the optimiser asks of a tile of both gradients."""
    at = weights + latent * d_out + column
    w = tl.load(at, mask=column < d_out, other=0.0).to(tl.float64)
    g, h = dec.to(tl.float64), enc.to(tl.float64)
    size = tl.num_programs(1).to(tl.int64) * latents
    to = moments + tile * latents + latent
    tl.store(to, tl.sum(h * h, 0))
    tl.store(to + size, tl.sum(g * g, 0))
    tl.store(to + 2 * size, tl.sum(g * w, 0))
    tl.store(to + 3 * size, tl.sum(w * w, 0))


@triton.jit
def extent(first: tl.tensor, latent: tl.tensor) -> tl.tensor:
    """Where a latent's entries begin and end."""
    return tl.load(first + latent), tl.load(first + latent + 1)
