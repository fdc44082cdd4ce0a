"""Kernels over listed entries by latent: their order, firing, and the gradients."""

from __future__ import annotations

import math

from saeserve.core.kernels.compiled import Array, helper, kernel, prange
from saeserve.core.kernels.jumprelu.entry_gradient import (
    ABOVE,
    BAND,
    FIRING,
    IN_BAND,
    NOT_BELOW,
    SHIFT,
    SLOPES,
    Prices,
    weigh,
)
from saeserve.core.kernels.lanes import Number, add, add_four, dot, four_dots, next_four


@kernel
def count_by_latent(
    offsets_B1: Array, latents_N: Array, counts_FC: Array, rows_per_chunk: int
) -> None:
    """Entries of each latent in each chunk of rows; `counts_FC` comes as zeros."""
    rows = offsets_B1.size - 1
    for c in prange(counts_FC.shape[1]):
        first, last = min(c * rows_per_chunk, rows), min((c + 1) * rows_per_chunk, rows)
        for n in range(offsets_B1[first], offsets_B1[last]):
            counts_FC[latents_N[n], c] += 1


@kernel
def sort_by_latent(
    offsets_B1: Array,
    latents_N: Array,
    values_N: Array,
    places_FC: Array,
    rows_per_chunk: int,
    sorted_rows_N: Array,
    sorted_values_N: Array,
) -> None:
    """Rows and values in ascending order of latent and row. `places_FC` says where each part
    begins and is moved to its end."""
    rows = offsets_B1.size - 1
    for c in prange(places_FC.shape[1]):
        for b in range(c * rows_per_chunk, min((c + 1) * rows_per_chunk, rows)):
            for n in range(offsets_B1[b], offsets_B1[b + 1]):
                i = latents_N[n]
                place = places_FC[i, c]
                sorted_rows_N[place] = b
                sorted_values_N[place] = values_N[n]
                places_FC[i, c] = place + 1


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
    """tanh(scale · f) of each entry; active entries and the sums FIRING .. ABOVE of each latent."""
    for i in prange(threshold_F.size):
        threshold, count, sums = threshold_F[i], 0, sums_FS[i]
        one = tanh_N.dtype.type(1)
        sums[:] = 0
        for n in range(starts_F1[i], starts_F1[i + 1]):
            h, tanh_N[n] = h_N[n], 0
            if h > threshold:
                tanh = math.tanh(scale_F[i] * h)
                count, tanh_N[n] = count + 1, tanh
                sums[FIRING] += tanh
                sums[SLOPES] += (one - tanh * tanh) * h
            if not h < threshold:
                sums[NOT_BELOW] += one
                sums[ABOVE] += h
        counts_F[i] = count


@helper
def _weights(
    prices: Prices, i: int, h: Number, tanh: Number, along: Number, sums: Array
) -> tuple[Number, Number]:
    """The entry's weights on its row of the error and on its row of the input; adds to `sums`."""
    over = h - prices.threshold[i]
    by_f, by_x, in_band_to_f, in_band = weigh(prices, i, over, tanh, along)
    sums[SHIFT] += by_x
    sums[BAND] += in_band_to_f
    sums[IN_BAND] += in_band
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
    """Add the listed entries' part to the gradients of decoder and encoder, and to the sums of
    `entry_gradient`. Rows of error and input are read once for all three products."""
    for i in prange(W_FO.shape[0]):
        W_O, to_W_O, to_W_D, sums = W_FO[i], to_W_FO[i], to_W_FD[i], sums_FS[i]
        place, end = starts_F1[i], starts_F1[i + 1]
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
