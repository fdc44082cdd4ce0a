"""Latents that say the same thing twice: decoder rows that point the same way.

Shape suffixes: F d_sae, O d_out, N latents that are compared, B a block of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

DUPLICATE_COSINE = 0.9
MOST_FLOP = 2e12
"""Larger dictionaries have a sample of their latents compared with all."""
_BLOCK_BYTES = 64 * 2**20


def nearest_cosines(W_dec_FO: Tensor, seed: int) -> Tensor:
    """Cosine of each compared latent with the decoder row that is nearest to its own, [N].

    Rows of zeros, of dead latents, are left out. All others are compared, or where that would take
    more than MOST_FLOP, some that `seed` chooses. Empty where fewer than two are left.
    """
    norm_F = W_dec_FO.square().sum(dim=1).sqrt()
    alive = (norm_F > 0).nonzero().squeeze(1)
    unit_FO = W_dec_FO[alive] / norm_F[alive, None]
    if len(unit_FO) < 2:
        return unit_FO.new_zeros(0)
    latents, d_out = unit_FO.shape
    chosen_N = _chosen(latents, d_out, seed).to(unit_FO.device)
    size = max(1, _BLOCK_BYTES // (4 * len(unit_FO)))
    return torch.cat([_nearest(unit_FO, block_B) for block_B in torch.split(chosen_N, size)])


def _nearest(unit_FO: Tensor, block_B: Tensor) -> Tensor:
    cosine_BF = unit_FO[block_B] @ unit_FO.T
    # A latent is not its own duplicate.
    cosine_BF[torch.arange(len(block_B), device=block_B.device), block_B] = -1
    return cosine_BF.amax(dim=1).clamp(-1, 1)


def _chosen(latents: int, d_out: int, seed: int) -> Tensor:
    most = max(2, int(MOST_FLOP / (2 * latents * d_out)))
    if most >= latents:
        return torch.arange(latents)
    draws = torch.Generator().manual_seed(seed)
    return torch.randperm(latents, generator=draws)[:most].sort().values
