"""K5: the gradients of both dictionaries, from entries in the order of their latents.

    over the entries (b, g, f, d) of latent i, with f != 0 and the scale c = -2 / (B variance):
    dW_dec,i = c sum f r_bg;  dW_enc,i = c sum d (x_b - b_pre);  db_i = c sum d;
    fired_i = #{f > 0} in the first groups

Entries are sorted, so those of a latent follow each other, in the order of their rows. A program
sums one latent's for a tile of columns. More than `WINDOW` entries of one latent are cut at
multiples of `WINDOW` of the sorted list, and a second launch adds the parts in order; so no latent
makes the others wait for long, every sum has one order, and nothing is added by an atomic
operation.

N entries, widths d and o, m latents, t tiles of columns. Bytes: 4 N (d + o) gathered,
4 m (d + o) written, 8 N t of entries; parts: at most 8 N (d + o) / WINDOW written, and read once.
FLOPs: 2 N (d + o). Launches: the sort's, one that lays out, one that sums, one that joins.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.entries import Entries
from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu.reconstruction import Reconstructed
from saeserve.core.gpu.sorted_entries import by_latent
from saeserve.core.kernels.topk.weights import DictionaryGradients

WINDOW = 128
"""Most entries that one program sums."""
WIDEST_TILE = 512
AT_ONCE = 4
"""Entries that are added at once."""
WARPS = 1


def gradients(
    entries: Entries,
    found: Reconstructed,
    x_BD: Tensor,
    latents: int,
    scale: Tensor,
    fired_groups: int,
    window: int = WINDOW,
) -> DictionaryGradients:
    """All gradients; `x_BD` is centred, `scale` is c, one number on the device, and entries of the
    first `fired_groups` groups count as fired."""
    ordered, r_NO = by_latent(entries, found.dots_N, latents), found.gradients_NO
    d_in, d_out, count = x_BD.shape[1], r_NO.shape[1], ordered.bags_N.numel()
    out = DictionaryGradients(
        W_enc=x_BD.new_empty(latents, d_in),
        b_enc=x_BD.new_empty(latents),
        W_dec=x_BD.new_empty(latents, d_out),
        fired_F=torch.empty(latents, dtype=torch.int64, device=x_BD.device),
    )
    windows, widest = triton.cdiv(count, window), max(d_in, d_out)
    # At most two latents with more than a window of entries have some in any one.
    parts = (
        x_BD.new_empty(2 * windows, d_out),
        x_BD.new_empty(2 * windows, d_in),
        x_BD.new_empty(2 * windows, 2),
    )
    tile = min(WIDEST_TILE, triton.next_power_of_2(widest))
    tiles, made = triton.cdiv(widest, tile), (out.W_dec, out.W_enc, out.b_enc, out.fired_F)
    both = d_in + d_out
    of_parts = 8 * count * both // window
    launch(
        sum_kernel,
        (windows + latents, tiles),
        (
            *(ordered.first_F1, ordered.latents_N, ordered.bags_N),
            *(ordered.values_N, ordered.dots_N, r_NO, x_BD, scale),
            *(*made, *parts, count, windows, d_out, d_in, entries.groups, fired_groups),
        ),
        Work(
            bytes=4 * latents * both + 8 * count * tiles + of_parts,
            flops=2 * count * both,
            gathered=4 * count * both,
        ),
        WINDOW=window,
        TILE=tile,
        AT_ONCE=AT_ONCE,
        num_warps=WARPS,
    )
    launch(
        join_kernel,
        (windows, tiles),
        (ordered.first_F1, ordered.latents_N, scale, *made, *parts, count, d_out, d_in),
        Work(bytes=of_parts),
        WINDOW=window,
        TILE=tile,
        num_warps=WARPS,
    )
    return out


@triton.jit
def _sum_tile(
    start: int,
    stop: int,
    bags: tl.tensor,
    values: tl.tensor,
    dots: tl.tensor,
    residual: tl.tensor,
    x: tl.tensor,
    column: tl.tensor,
    d_out: int,
    d_in: int,
    groups: int,
    fired_groups: int,
    TILE: tl.constexpr,
    AT_ONCE: tl.constexpr,
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
        bag = tl.load(bags + at, mask=used, other=0)
        row = bag // groups
        dot = tl.load(dots + at, mask=used, other=0.0)
        r_part = tl.load(
            residual + bag.to(tl.int64)[:, None] * d_out + column[None, :],
            mask=used[:, None] & (column < d_out)[None, :],
            other=0.0,
        )
        x_part = tl.load(
            x + row.to(tl.int64)[:, None] * d_in + column[None, :],
            mask=used[:, None] & (column < d_in)[None, :],
            other=0.0,
        )
        dec += tl.sum(value[:, None] * r_part, 0)
        enc += tl.sum(dot[:, None] * x_part, 0)
        bias += dot
        fired += ((value > 0.0) & (bag - row * groups < fired_groups)).to(tl.float32)
    return dec, enc, tl.sum(bias, 0), tl.sum(fired, 0)


@triton.jit
def _store_tile(
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
def _extent(first: tl.tensor, latent: tl.tensor) -> tl.tensor:
    """Where a latent's entries begin and end."""
    return tl.load(first + latent), tl.load(first + latent + 1)


@triton.jit
def sum_kernel(
    first: tl.tensor,
    ordered: tl.tensor,
    bags: tl.tensor,
    values: tl.tensor,
    dots: tl.tensor,
    residual: tl.tensor,
    x: tl.tensor,
    scale: tl.tensor,
    W_dec: tl.tensor,
    W_enc: tl.tensor,
    b_enc: tl.tensor,
    fired: tl.tensor,
    part_dec: tl.tensor,
    part_enc: tl.tensor,
    part_sums: tl.tensor,
    count: int,
    windows: int,
    d_out: int,
    d_in: int,
    groups: int,
    fired_groups: int,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Programs from `windows` on: a latent each, if its entries fit in one window. Those
    before: what longer latents have in one window, which are its first and its last one's."""
    program = tl.program_id(0)
    tile = tl.program_id(1)
    column = tile * TILE + tl.arange(0, TILE)
    c = tl.load(scale)
    if program >= windows:
        latent = (program - windows).to(tl.int64)
        begin, end = _extent(first, latent)
        if end - begin <= WINDOW:
            dec, enc, bias, active = _sum_tile(
                begin,
                end,
                bags,
                values,
                dots,
                residual,
                x,
                column,
                d_out,
                d_in,
                groups,
                fired_groups,
                TILE,
                AT_ONCE,
            )
            _store_tile(W_dec, W_enc, latent, column, c * dec, c * enc, d_out, d_in)
            if tile == 0:
                tl.store(b_enc + latent, c * bias)
                tl.store(fired + latent, active.to(tl.int64))
    else:
        start = program * WINDOW
        last = tl.minimum(start + WINDOW, count) - 1
        left = tl.load(ordered + start)
        right = tl.load(ordered + last)
        for side in range(2):
            latent = tl.where(side == 0, left, right)
            begin, end = _extent(first, latent)
            if (end - begin > WINDOW) & ((side == 0) | (left != right)):
                dec, enc, bias, active = _sum_tile(
                    tl.maximum(begin, start),
                    tl.minimum(end, last + 1),
                    bags,
                    values,
                    dots,
                    residual,
                    x,
                    column,
                    d_out,
                    d_in,
                    groups,
                    fired_groups,
                    TILE,
                    AT_ONCE,
                )
                slot = (2 * program + side).to(tl.int64)
                _store_tile(part_dec, part_enc, slot, column, dec, enc, d_out, d_in)
                if tile == 0:
                    tl.store(part_sums + 2 * slot, bias)
                    tl.store(part_sums + 2 * slot + 1, active)


@triton.jit
def join_kernel(
    first: tl.tensor,
    ordered: tl.tensor,
    scale: tl.tensor,
    W_dec: tl.tensor,
    W_enc: tl.tensor,
    b_enc: tl.tensor,
    fired: tl.tensor,
    part_dec: tl.tensor,
    part_enc: tl.tensor,
    part_sums: tl.tensor,
    count: int,
    d_out: int,
    d_in: int,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Add what the windows of a long latent hold, in order: the program of the window in which it
    begins. One at most begins in a window, and it reaches the window's last entry."""
    window = tl.program_id(0)
    tile = tl.program_id(1)
    last = tl.minimum(window * WINDOW + WINDOW, count) - 1
    latent = tl.load(ordered + last).to(tl.int64)
    begin, end = _extent(first, latent)
    if (end - begin > WINDOW) & (begin // WINDOW == window):
        column = tile * TILE + tl.arange(0, TILE)
        dec = tl.zeros([TILE], tl.float32)
        enc = tl.zeros([TILE], tl.float32)
        # One number each, as blocks: a scalar would change its type in the loop.
        one = tl.arange(0, 1)
        bias = tl.zeros([1], tl.float32)
        active = tl.zeros([1], tl.float32)
        for other in range(window, (end - 1) // WINDOW + 1):
            # On the left side of its window unless it begins inside of it.
            slot = (2 * other + tl.where(begin > other * WINDOW, 1, 0)).to(tl.int64)
            dec += tl.load(part_dec + slot * d_out + column, mask=column < d_out, other=0.0)
            enc += tl.load(part_enc + slot * d_in + column, mask=column < d_in, other=0.0)
            bias += tl.load(part_sums + 2 * slot + one)
            active += tl.load(part_sums + 2 * slot + 1 + one)
        c = tl.load(scale)
        _store_tile(W_dec, W_enc, latent, column, c * dec, c * enc, d_out, d_in)
        if tile == 0:
            tl.store(b_enc + latent + one, c * bias)
            tl.store(fired + latent + one, active.to(tl.int64))
