"""The gradients of both dictionaries: entries sorted by latent, then gathered sums.

Shape suffixes: B rows, G groups, N entries (sorted), F d_sae, D d_in, O d_out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.kernels import buffers, gathers
from saeserve.core.kernels.compiled import Array, array, helper, kernel, prange
from saeserve.core.kernels.topk.entries import Entries
from saeserve.core.kernels.topk.reconstruction import Reconstructed

_SHARES = 64


@dataclass(frozen=True)
class DictionaryGradients:
    """Gradients of the weights and of b_enc."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    fired_F: Tensor
    """int64: rows in which each latent was active."""


def gradients(
    entries: Entries,
    found: Reconstructed,
    x_BD: Tensor,
    dictionaries: tuple[Tensor, Tensor],
    *,
    fired_groups: int,
) -> DictionaryGradients:
    """Sum over the entries of each latent, in their order; entries of the first `fired_groups`
    groups count as fired. `dictionaries` are W_enc and W_dec."""
    W_enc, W_dec = dictionaries
    latents = W_enc.shape[0]
    stored = entries.edges_BE[:, -1].sub(entries.edges_BE[:, 0]).sum()
    floats, places = entries.values_N, torch.empty(2, int(stored), dtype=torch.int64)
    offsets, fired_F = places.new_empty(latents + 1), places.new_zeros(latents)
    scalars = floats.new_empty(2, places.shape[1])
    _sort(
        *(array(entries.edges_BE), array(entries.latents_N), array(entries.values_N)),
        *(array(found.deltas_N), fired_groups, array(fired_F)),
        *(array(offsets), array(places), array(scalars)),
    )
    out = DictionaryGradients(
        W_enc=buffers.gradient_of(W_enc),
        b_enc=x_BD.new_empty(latents),
        W_dec=buffers.gradient_of(W_dec),
        fired_F=fired_F,
    )
    _sum(
        *(array(offsets), array(places), array(scalars), array(found.gradients_NO), array(x_BD)),
        *(array(out.W_enc), array(out.b_enc), array(out.W_dec)),
    )
    return out


@helper
def _count(
    edges_BE: Array,
    latents_N: Array,
    values_N: Array,
    fired_groups: int,
    fired_F: Array,
    offsets: Array,
) -> None:
    """Entries before each latent's own; and how often each fired."""
    offsets[:] = 0
    for row in range(edges_BE.shape[0]):
        for n in range(edges_BE[row, 0], edges_BE[row, edges_BE.shape[1] - 1]):
            offsets[latents_N[n] + 1] += 1
        for n in range(edges_BE[row, 0], edges_BE[row, fired_groups]):
            fired_F[latents_N[n]] += values_N[n] > 0
    for latent in range(1, offsets.shape[0]):
        offsets[latent] += offsets[latent - 1]


@helper
def _sort(
    edges_BE: Array,
    latents_N: Array,
    values_N: Array,
    deltas_N: Array,
    fired_groups: int,
    fired_F: Array,
    offsets: Array,
    places_2N: Array,
    scalars_2N: Array,
) -> None:
    """Counting sort by latent: row and bag (row and group) of each entry, value and gradient."""
    groups = edges_BE.shape[1] - 1
    _count(edges_BE, latents_N, values_N, fired_groups, fired_F, offsets)
    for row in range(edges_BE.shape[0]):
        for group in range(groups):
            for n in range(edges_BE[row, group], edges_BE[row, group + 1]):
                place = offsets[latents_N[n]]
                places_2N[0, place], places_2N[1, place] = row, row * groups + group
                scalars_2N[0, place], scalars_2N[1, place] = values_N[n], deltas_N[n]
                offsets[latents_N[n]] = place + 1
    # Each latent's start has moved on to its end, which is the next one's start.
    for latent in range(offsets.shape[0] - 1, 0, -1):
        offsets[latent] = offsets[latent - 1]
    offsets[0] = 0


@kernel
def _sum(
    offsets: Array,
    places_2N: Array,
    scalars_2N: Array,
    gradients_NO: Array,
    x_BD: Array,
    W_enc_FD: Array,
    b_enc_F: Array,
    W_dec_FO: Array,
) -> None:
    rows_N, bags_N = places_2N[0], places_2N[1]
    values_N, deltas_N = scalars_2N[0], scalars_2N[1]
    for share in prange(_SHARES):
        for latent in range(
            gathers.first_bag(offsets, share, _SHARES),
            gathers.first_bag(offsets, share + 1, _SHARES),
        ):
            start, stop = offsets[latent], offsets[latent + 1]
            W_enc_FD[latent, :] = 0
            W_dec_FO[latent, :] = 0
            gathers.add_rows(W_enc_FD[latent], deltas_N, rows_N, start, stop, x_BD)
            gathers.add_rows(W_dec_FO[latent], values_N, bags_N, start, stop, gradients_NO)
            total = b_enc_F.dtype.type(0)
            for n in range(start, stop):
                total += deltas_N[n]
            b_enc_F[latent] = total
