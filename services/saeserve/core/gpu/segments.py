"""K5: the gradients of both dictionaries, from entries in the order of their latents.

    over the entries (b, g, f, d) of latent i, with f != 0 and the scale c = -2 / (B variance):
    dW_dec,i = c sum f r_bg;  dW_enc,i = c sum d (x_b - b_pre);  db_i = c sum d;
    fired_i = #{f > 0} in the first groups
    for the optimiser, of g = dW_enc,i: <g, g>; of g = dW_dec,i and w = W_dec,i: <g, g>, <g, w>,
    <w, w>, in float64, while the rows are in registers (`measures`)

In low precision r comes as s r in float16 (`reconstruction`), and x - b_pre as the copy that the
encoder's product had. A row of x that its copy does not hold to 2^-10 of its norm, by numbers too
large or too small for float16, is read in float32. Sums are float32, and c is multiplied to them
at last: nothing is scaled by a count in float16.

Entries are sorted, so those of a latent follow each other, in the order of their rows. A program
sums one latent's for a tile of columns. More than `WINDOW` entries of one latent are cut at
multiples of `WINDOW` of the sorted list, and a second launch adds the parts in order; so no latent
makes the others wait for long, every sum has one order, and nothing is added by an atomic
operation.

N entries, widths d and o, m latents, t tiles of columns, e = 2 bytes a number in low precision,
else 4. Bytes: e N (d + o) gathered, 4 m (d + 2 o) of gradients and W_dec, 8 N t of entries, 32 m t
of moments; parts: at most 8 N (d + o) / WINDOW written, and read once. FLOPs: 2 N (d + o) and
2 m (d + 3 o). Launches: the sort's, one that lays out, one that sums, one that joins.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu import measures
from saeserve.core.gpu.entries import Entries
from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu.reconstruction import Reconstructed, tile_of
from saeserve.core.gpu.rows import Rows
from saeserve.core.gpu.segment_sums import columns_of, extent, measure_tile, store_tile, sum_tile
from saeserve.core.gpu.sorted_entries import Sorted, by_latent
from saeserve.core.kernels.topk.weights import DictionaryGradients

WINDOW = 128
"""Most entries that one program sums."""
AT_ONCE = 2
"""Entries that are added at once; more take registers, and so programs away."""
WARPS = 1


def gradients(
    entries: Entries,
    found: Reconstructed,
    x: Rows,
    dictionaries: tuple[Tensor, Tensor],
    scale: Tensor,
    fired_groups: int,
    window: int = WINDOW,
) -> DictionaryGradients:
    """All gradients; `x` is centred, `dictionaries` are W_enc and W_dec, `scale` is c, one number
    on the device, and entries of the first `fired_groups` groups count as fired."""
    W_enc, W_dec = dictionaries
    latents = W_enc.shape[0]
    ordered = by_latent(entries, found.dots_TN, latents)
    out = DictionaryGradients(
        W_enc=torch.empty_like(W_enc),
        b_enc=W_enc.new_empty(latents),
        W_dec=torch.empty_like(W_dec),
        fired_F=torch.empty(latents, dtype=torch.int64, device=W_enc.device),
    )
    tiles = triton.cdiv(widest := max(W_enc.shape[1], W_dec.shape[1]), columns_of(widest))
    size = (measures.ENCODER + measures.DECODER, tiles, latents)
    moments_STF = W_enc.new_empty(size, dtype=torch.float64)
    _sum(ordered, found, x, W_dec, scale, out, moments_STF, (entries.groups, fired_groups), window)
    measures.keep(out.W_enc, W_enc, moments_STF[: measures.ENCODER])
    measures.keep(out.W_dec, W_dec, moments_STF[measures.ENCODER :])
    return out


def _sum(
    ordered: Sorted,
    found: Reconstructed,
    x: Rows,
    W_dec: Tensor,
    scale: Tensor,
    out: DictionaryGradients,
    moments_STF: Tensor,
    groups: tuple[int, int],
    window: int,
) -> None:
    """Write all sums: of short latents and of parts, then of parts."""
    (latents, d_in), d_out, tiles = out.W_enc.shape, W_dec.shape[1], moments_STF.shape[1]
    count, both, low = ordered.bags_N.numel(), d_in + d_out, x.copy is not None
    windows = triton.cdiv(count, window)
    # At most two latents with more than a window of entries have some in any one.
    parts = [W_dec.new_empty(2 * windows, width) for width in (d_out, d_in, 2)]
    copies = (x.rows_BD,) * 3 if x.copy is None else (x.copy.low_FD, x.copy.norm_F, x.copy.lost_F)
    written = (out.W_dec, out.W_enc, out.b_enc, out.fired_F, moments_STF)
    of_parts = 8 * count * both // window
    sizes = {"WINDOW": window, "TILE": columns_of(max(d_in, d_out)), "num_warps": WARPS}
    launch(
        sum_kernel,
        (windows + latents, tiles),
        (
            *(ordered.first_F1, ordered.latents_N, ordered.bags_N),
            *(ordered.values_N, ordered.dots_N, found.low_NO, found.inverses_NT, x.rows_BD),
            *(*copies, scale, W_dec, *written, *parts),
            *(count, windows, latents, d_out, d_in, found.inverses_NT.shape[1], *groups),
        ),
        Work(
            bytes=4 * latents * (both + d_out) + (8 * count + 32 * latents) * tiles + of_parts,
            flops=2 * count * both + 2 * latents * (both + 2 * d_out),
            gathered=found.low_NO.itemsize * count * both,
        ),
        LOW=low,
        AT_ONCE=AT_ONCE,
        SCALED=tile_of(d_out),
        **sizes,
    )
    launch(
        join_kernel,
        (windows, tiles),
        (
            *(ordered.first_F1, ordered.latents_N, scale, W_dec, *written, *parts),
            *(count, latents, d_out, d_in),
        ),
        Work(bytes=of_parts),
        **sizes,
    )


@triton.jit
def sum_kernel(
    first: tl.tensor,
    ordered: tl.tensor,
    bags: tl.tensor,
    values: tl.tensor,
    dots: tl.tensor,
    residual: tl.tensor,
    inverses: tl.tensor,
    x: tl.tensor,
    low: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    scale: tl.tensor,
    weights: tl.tensor,
    W_dec: tl.tensor,
    W_enc: tl.tensor,
    b_enc: tl.tensor,
    fired: tl.tensor,
    moments: tl.tensor,
    part_dec: tl.tensor,
    part_enc: tl.tensor,
    part_sums: tl.tensor,
    count: int,
    windows: int,
    latents: int,
    d_out: int,
    d_in: int,
    tiles: int,
    groups: int,
    fired_groups: int,
    LOW: tl.constexpr,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    AT_ONCE: tl.constexpr,
    SCALED: tl.constexpr,
) -> None:
    """Programs from `windows` on: a latent each, if its entries fit in one window. Those
    before: what longer latents have in one window, which are its first and its last one's."""
    program = tl.program_id(0)
    tile = tl.program_id(1)
    column = tile * TILE + tl.arange(0, TILE)
    c = tl.load(scale)
    if program >= windows:
        latent = (program - windows).to(tl.int64)
        begin, end = extent(first, latent)
        if end - begin <= WINDOW:
            dec, enc, bias, active = sum_tile(
                begin,
                end,
                bags,
                values,
                dots,
                residual,
                inverses,
                x,
                low,
                norms,
                lost,
                column,
                d_out,
                d_in,
                tiles,
                groups,
                fired_groups,
                LOW,
                TILE,
                AT_ONCE,
                SCALED,
            )
            dec *= c
            enc *= c
            store_tile(W_dec, W_enc, latent, column, dec, enc, d_out, d_in)
            measure_tile(weights, moments, latent, tile, column, dec, enc, d_out, latents)
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
            begin, end = extent(first, latent)
            if (end - begin > WINDOW) & ((side == 0) | (left != right)):
                dec, enc, bias, active = sum_tile(
                    tl.maximum(begin, start),
                    tl.minimum(end, last + 1),
                    bags,
                    values,
                    dots,
                    residual,
                    inverses,
                    x,
                    low,
                    norms,
                    lost,
                    column,
                    d_out,
                    d_in,
                    tiles,
                    groups,
                    fired_groups,
                    LOW,
                    TILE,
                    AT_ONCE,
                    SCALED,
                )
                slot = (2 * program + side).to(tl.int64)
                store_tile(part_dec, part_enc, slot, column, dec, enc, d_out, d_in)
                if tile == 0:
                    tl.store(part_sums + 2 * slot, bias)
                    tl.store(part_sums + 2 * slot + 1, active)


@triton.jit
def join_kernel(
    first: tl.tensor,
    ordered: tl.tensor,
    scale: tl.tensor,
    weights: tl.tensor,
    W_dec: tl.tensor,
    W_enc: tl.tensor,
    b_enc: tl.tensor,
    fired: tl.tensor,
    moments: tl.tensor,
    part_dec: tl.tensor,
    part_enc: tl.tensor,
    part_sums: tl.tensor,
    count: int,
    latents: int,
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
    begin, end = extent(first, latent)
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
        dec *= c
        enc *= c
        store_tile(W_dec, W_enc, latent, column, dec, enc, d_out, d_in)
        measure_tile(weights, moments, latent, tile, column, dec, enc, d_out, latents)
        if tile == 0:
            tl.store(b_enc + latent + one, c * bias)
            tl.store(fired + latent + one, active.to(tl.int64))
