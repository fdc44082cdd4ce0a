"""How long the encoder rows of revived latents are in the TopK family.

A latent fires only where it is among the largest, so its encoder row is long enough to exceed by a
tenth what is chosen now on its own row: the k-th largest of live latents, or the threshold. The
revived ones compete too. Where one would still not be chosen on its own row, all get the longest
encoder row among them, with which no other exceeds a latent on its own row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.ops.norms import row_norms
from saeserve.core.ops.sparse import rows_per_block

MARGIN = 1.1
"""How far a latent exceeds on its own row what is chosen now."""


def above_threshold(usual_N: Tensor, threshold: Tensor, centred_ND: Tensor) -> Tensor:
    """[N], at least `usual_N`."""
    norm_N = row_norms(centred_ND)
    return torch.maximum(usual_N, MARGIN * threshold.to(norm_N) / norm_N)


def above_largest(
    usual_N: Tensor,
    form: EvaluationForm,
    k: int,
    dead_F: Tensor,
    x_ND: Tensor,
    centred_ND: Tensor,
) -> Tensor:
    """[N], at least `usual_N`, for latents of rows x, less their bias `centred_ND`."""
    norm_N = row_norms(centred_ND)
    chosen_NK = _chosen_of_live(form, k, dead_F, x_ND)
    length_N = torch.maximum(usual_N, MARGIN * chosen_NK[:, -1].clamp_min(0) / norm_N)
    if _all_chosen(chosen_NK, centred_ND, length_N):
        return length_N
    return length_N.max().expand_as(length_N)


def _chosen_of_live(form: EvaluationForm, k: int, dead_F: Tensor, x_ND: Tensor) -> Tensor:
    """The k largest pre-activations of live latents on each row, [N, k]; -inf where there are
    fewer."""
    found, size = list[Tensor](), rows_per_block(dead_F.shape[0])
    for start in range(0, len(x_ND), size):
        h_BF = torch.addmm(form.b_enc_F, x_ND[start : start + size], form.W_enc_FD.T)
        found.append(h_BF.masked_fill(dead_F, -torch.inf).topk(k, dim=1).values)
    return torch.cat(found)


def _all_chosen(chosen_NK: Tensor, centred_ND: Tensor, length_N: Tensor) -> bool:
    """Whether each latent is among the k largest on its own row, where all others compete."""
    norm_N = row_norms(centred_ND)
    W_enc_ND = centred_ND * (length_N / norm_N)[:, None]
    own_N, size = length_N * norm_N, rows_per_block(len(centred_ND))
    for start in range(0, len(centred_ND), size):
        rows = slice(start, start + size)
        h_BN = centred_ND[rows] @ W_enc_ND.T
        h_BN.diagonal(start).fill_(-torch.inf)
        above_B = (h_BN >= own_N[rows, None]).sum(1) + (chosen_NK[rows] >= own_N[rows, None]).sum(1)
        if bool((above_B >= chosen_NK.shape[1]).any()):
            return False
    return True
