"""The gradients of both dictionaries: entries sorted by latent, then gathered sums.

Shape suffixes: B rows, G groups, N entries (sorted), F d_sae, D d_in, O d_out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from saeserve.core.kernels import buffers, gathers, measures
from saeserve.core.kernels.compiled import SHARES, Array, array, kernel, prange
from saeserve.core.kernels.lanes import moments, square
from saeserve.core.kernels.sort import by_latent
from saeserve.core.kernels.topk.entries import Entries
from saeserve.core.kernels.topk.reconstruction import Reconstructed


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
    order = torch.arange(entries.values.numel())
    found_N = by_latent(replace(entries.by_group, values=order), latents)
    values_N, deltas_N = entries.values[found_N.values], found.deltas_N[found_N.values]
    bags_N, groups = found_N.rows, entries.groups
    rows_N = bags_N if groups == 1 else bags_N // groups
    out = DictionaryGradients(
        W_enc=buffers.gradient_of(W_enc),
        b_enc=x_BD.new_empty(latents),
        W_dec=buffers.gradient_of(W_dec),
        fired_F=order.new_empty(latents),
    )
    # Of W_enc and W_dec, whose rows the optimiser keeps at norm 1.
    moments_23F = np.zeros((2, 3, latents))
    _sum(
        *(array(found_N.starts), array(rows_N), array(bags_N), array(values_N), array(deltas_N)),
        *(array(found.gradients_NO), array(x_BD), groups, fired_groups),
        *(array(out.W_enc), array(out.b_enc), array(out.W_dec), array(out.fired_F)),
        *(array(W_dec), moments_23F),
    )
    measures.keep(out.W_enc, W_enc, moments_23F[0], unit=False)
    measures.keep(out.W_dec, W_dec, moments_23F[1], unit=True)
    return out


@kernel
def _sum(
    starts_F1: Array,
    rows_N: Array,
    bags_N: Array,
    values_N: Array,
    deltas_N: Array,
    gradients_NO: Array,
    x_BD: Array,
    groups: int,
    fired_groups: int,
    W_enc_FD: Array,
    b_enc_F: Array,
    W_dec_FO: Array,
    fired_F: Array,
    decoder_FO: Array,
    moments_23F: Array,
) -> None:
    """W_enc[i] = sum of delta x[row], b_enc[i] = sum of delta, W_dec[i] = sum of value r[bag] over
    the entries of latent i; fired[i] = those of the first groups with value > 0; moments are
    <g, g> of g = W_enc[i], then <g, g>, <g, w> and <w, w> of g = W_dec[i] and w = decoder[i]."""
    all_fire = fired_groups >= groups
    for share in prange(SHARES):
        for latent in range(
            gathers.first_bag(starts_F1, share, SHARES),
            gathers.first_bag(starts_F1, share + 1, SHARES),
        ):
            start, stop = starts_F1[latent], starts_F1[latent + 1]
            W_enc_FD[latent, :] = 0
            W_dec_FO[latent, :] = 0
            gathers.add_rows(W_enc_FD[latent], deltas_N, rows_N, start, stop, x_BD)
            gathers.add_rows(W_dec_FO[latent], values_N, bags_N, start, stop, gradients_NO)
            total, fired = b_enc_F.dtype.type(0), 0
            # Entries are in the order of their rows, so the sum has one order.
            for n in range(start, stop):
                total += deltas_N[n]
            if all_fire:
                for n in range(start, stop):
                    fired += values_N[n] > 0
            else:
                for n in range(start, stop):
                    fired += values_N[n] > 0 and bags_N[n] % groups < fired_groups
            b_enc_F[latent], fired_F[latent] = total, fired
            # For the optimiser, while both rows are in the cache.
            moments_23F[0, 0, latent] = square(W_enc_FD[latent])
            of_g, along, of_w = moments(W_dec_FO[latent], decoder_FO[latent])
            moments_23F[1, 0, latent], moments_23F[1, 1, latent] = of_g, along
            moments_23F[1, 2, latent] = of_w
