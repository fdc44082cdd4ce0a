"""Kernels over listed entries: by row their exact values and reconstruction, by latent the firing
and the gradients.

By row, rows are taken in tiles and latents in blocks whose weights stay in the second cache while
the tile passes over them; each row remembers where its next block begins.
"""

from __future__ import annotations

import math

import numpy as np

from saeserve.core.kernels import gathers
from saeserve.core.kernels.compiled import Array, helper, kernel, prange
from saeserve.core.kernels.encoder import ROWS
from saeserve.core.kernels.jumprelu import passes
from saeserve.core.kernels.jumprelu.passes import Prices
from saeserve.core.kernels.lanes import Number, add, add_four, dot, four_dots, next_four


@helper
def _end_of_block(latents_N: Array, place: int, end: int, limit: int) -> int:
    """The first place from `place` on whose latent is not below `limit`."""
    while place < end and latents_N[place] < limit:
        place += 1
    return place


@kernel
def exact_values(
    x_BD: Array,
    W_FD: Array,
    b_F: Array,
    offsets_B1: Array,
    latents_N: Array,
    values_N: Array,
    block: int,
) -> None:
    """values[n] = <W[latent], x[row]> + b[latent], latents taken `block` at a time."""
    rows, latents = x_BD.shape[0], W_FD.shape[0]
    for tile in prange((rows + ROWS - 1) // ROWS):
        first, last = tile * ROWS, min(tile * ROWS + ROWS, rows)
        places = offsets_B1[first:last].copy()
        # All rows of the tile pass over one block of weights before the next is read.
        for start in range(0, latents, block):
            for b in range(first, last):
                place = places[b - first]
                end = _end_of_block(latents_N, place, offsets_B1[b + 1], start + block)
                gathers.dot_rows(values_N, x_BD[b], latents_N, place, end, W_FD)
                for n in range(place, end):
                    values_N[n] += b_F[latents_N[n]]
                places[b - first] = end


@kernel
def decode_onto(
    y_BO: Array,
    W_FO: Array,
    threshold_F: Array,
    offsets_B1: Array,
    latents_N: Array,
    h_N: Array,
    block: int,
) -> None:
    """y[row] += f W[latent], where f = h above the threshold, else 0; `block` as above."""
    rows, latents = y_BO.shape[0], W_FO.shape[0]
    for tile in prange((rows + ROWS - 1) // ROWS):
        first, last = tile * ROWS, min(tile * ROWS + ROWS, rows)
        places, f_N = offsets_B1[first:last].copy(), np.empty(latents, h_N.dtype)
        # All rows of the tile pass over one block of weights before the next is read.
        for start in range(0, latents, block):
            for b in range(first, last):
                place = places[b - first]
                end = _end_of_block(latents_N, place, offsets_B1[b + 1], start + block)
                for n in range(place, end):
                    h = h_N[n]
                    f_N[n - place] = h if h > threshold_F[latents_N[n]] else h_N.dtype.type(0)
                gathers.add_rows(y_BO[b], f_N, latents_N[place:end], 0, end - place, W_FO)
                places[b - first] = end


@kernel
def firing(
    starts_F1: Array,
    h_N: Array,
    threshold_F: Array,
    scale_F: Array,
    counts_F: Array,
    sums_FS: Array,
    tanh_N: Array,
) -> None:
    """tanh[n] = tanh(scale · h) of active entries, else 0; counts[i] = the active entries of a
    latent; sums[i] = those of tanh, (1 - tanh²) h, [h >= threshold] and [h >= threshold] h."""
    for i in prange(threshold_F.size):
        threshold, count, sums = threshold_F[i], 0, sums_FS[i]
        one = tanh_N.dtype.type(1)
        sums[:] = 0
        # NaN is not below its threshold, and so is counted and shown.
        for n in range(starts_F1[i], starts_F1[i + 1]):
            h, tanh_N[n] = h_N[n], 0
            if h > threshold:
                tanh = math.tanh(scale_F[i] * h)
                count, tanh_N[n] = count + 1, tanh
                sums[passes.FIRING] += tanh
                sums[passes.SLOPES] += (one - tanh * tanh) * h
            if not h < threshold:
                sums[passes.NOT_BELOW] += one
                sums[passes.ABOVE] += h
        counts_F[i] = count


@helper
def _weights(
    prices: Prices, i: int, h: Number, tanh: Number, along: Number, sums: Array
) -> tuple[Number, Number]:
    """The entry's weights on its row of the error and on its row of the input; adds to `sums`."""
    over = h - prices.threshold[i]
    by_f, by_x, in_band_to_f, in_band = passes.weigh(prices, i, over, tanh, along)
    sums[passes.SHIFT] += by_x
    sums[passes.BAND] += in_band_to_f
    sums[passes.IN_BAND] += in_band
    return by_f * h, by_x


@helper
def _four_entries(
    prices: Prices,
    i: int,
    rows_N: Array,
    h_N: Array,
    tanh_N: Array,
    place: int,
    x_BD: Array,
    e_BO: Array,
    W_O: Array,
    to_W_O: Array,
    to_W_D: Array,
    sums: Array,
) -> None:
    """`gradients` of four entries, whose rows are in the cache between the two products."""
    a, b, c, d = next_four(rows_N, place)
    h_a, h_b, h_c, h_d = next_four(h_N, place)
    tanh_a, tanh_b, tanh_c, tanh_d = next_four(tanh_N, place)
    on_a, on_b, on_c, on_d = four_dots(W_O, e_BO[a], e_BO[b], e_BO[c], e_BO[d])
    e_a, x_a = _weights(prices, i, h_a, tanh_a, on_a, sums)
    e_b, x_b = _weights(prices, i, h_b, tanh_b, on_b, sums)
    e_c, x_c = _weights(prices, i, h_c, tanh_c, on_c, sums)
    e_d, x_d = _weights(prices, i, h_d, tanh_d, on_d, sums)
    add_four(to_W_O, e_a, e_BO[a], e_b, e_BO[b], e_c, e_BO[c], e_d, e_BO[d])
    add_four(to_W_D, x_a, x_BD[a], x_b, x_BD[b], x_c, x_BD[c], x_d, x_BD[d])


@kernel
def gradients(
    prices: Prices,
    starts_F1: Array,
    rows_N: Array,
    h_N: Array,
    tanh_N: Array,
    x_BD: Array,
    e_BO: Array,
    W_FO: Array,
    to_W_FO: Array,
    to_W_FD: Array,
    sums_FS: Array,
) -> None:
    """to_W_dec[i] += the sum of c [active] h e[row], to_W_enc[i] += that of d loss / d h x[row],
    over a latent's entries, weighed as `passes.weigh` says; its three sums are added to `sums`."""
    for i in prange(W_FO.shape[0]):
        W_O, to_W_O, to_W_D, sums = W_FO[i], to_W_FO[i], to_W_FD[i], sums_FS[i]
        place, end = starts_F1[i], starts_F1[i + 1]
        # Rows of error and input are read once for all three products.
        while place + 4 <= end:
            _four_entries(
                prices, i, rows_N, h_N, tanh_N, place, x_BD, e_BO, W_O, to_W_O, to_W_D, sums
            )
            place += 4
        while place < end:
            b = rows_N[place]
            along = dot(W_O, e_BO[b])
            by_e, by_x = _weights(prices, i, h_N[place], tanh_N[place], along, sums)
            add(to_W_O, by_e, e_BO[b])
            add(to_W_D, by_x, x_BD[b])
            place += 1
