"""Kernels over listed entries by row: exact values, and the decoder's sums.

Rows are taken in tiles and latents in blocks whose weights stay in the second cache while the tile
passes over them; each row remembers where its next block begins.
"""

from __future__ import annotations

from saeserve.core.kernels.compiled import Array, helper, kernel, prange
from saeserve.core.kernels.lanes import Number, add, add_four, dot, four_dots, next_four

ROWS = 256
"""Rows of a tile."""


@helper
def _end_of_block(latents_N: Array, place: int, end: int, limit: int) -> int:
    """The first place from `place` on whose latent is not below `limit`."""
    while place < end and latents_N[place] < limit:
        place += 1
    return place


@helper
def _exact(
    x_D: Array, W_FD: Array, b_F: Array, latents_N: Array, values_N: Array, place: int, end: int
) -> None:
    while place + 4 <= end:
        i, j, k, m = next_four(latents_N, place)
        of_i, of_j, of_k, of_m = four_dots(x_D, W_FD[i], W_FD[j], W_FD[k], W_FD[m])
        values_N[place] = of_i + b_F[i]
        values_N[place + 1] = of_j + b_F[j]
        values_N[place + 2] = of_k + b_F[k]
        values_N[place + 3] = of_m + b_F[m]
        place += 4
    while place < end:
        i = latents_N[place]
        values_N[place] = dot(x_D, W_FD[i]) + b_F[i]
        place += 1


@helper
def _feature(h_N: Array, place: int, threshold: Number) -> Number:
    return h_N[place] if h_N[place] > threshold else h_N.dtype.type(0)


@helper
def _decode(
    y_O: Array, W_FO: Array, threshold_F: Array, latents_N: Array, h_N: Array, place: int, end: int
) -> None:
    while place + 4 <= end:
        i, j, k, m = next_four(latents_N, place)
        f_i = _feature(h_N, place, threshold_F[i])
        f_j = _feature(h_N, place + 1, threshold_F[j])
        f_k = _feature(h_N, place + 2, threshold_F[k])
        f_m = _feature(h_N, place + 3, threshold_F[m])
        add_four(y_O, f_i, W_FO[i], f_j, W_FO[j], f_k, W_FO[k], f_m, W_FO[m])
        place += 4
    while place < end:
        i = latents_N[place]
        add(y_O, _feature(h_N, place, threshold_F[i]), W_FO[i])
        place += 1


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
    """values = <W[latent], x[row]> + b[latent], latents taken `block` at a time."""
    rows, latents = x_BD.shape[0], W_FD.shape[0]
    for tile in prange((rows + ROWS - 1) // ROWS):
        first, last = tile * ROWS, min(tile * ROWS + ROWS, rows)
        places = offsets_B1[first:last].copy()
        for start in range(0, latents, block):
            for b in range(first, last):
                place = places[b - first]
                end = _end_of_block(latents_N, place, offsets_B1[b + 1], start + block)
                _exact(x_BD[b], W_FD, b_F, latents_N, values_N, place, end)
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
        places = offsets_B1[first:last].copy()
        for start in range(0, latents, block):
            for b in range(first, last):
                place = places[b - first]
                end = _end_of_block(latents_N, place, offsets_B1[b + 1], start + block)
                _decode(y_BO[b], W_FO, threshold_F, latents_N, h_N, place, end)
                places[b - first] = end
