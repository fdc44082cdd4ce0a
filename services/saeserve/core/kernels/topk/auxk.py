"""AuxK over dead latents: dense among them alone, in blocks of rows.

The residual e is rebuilt from each row's n largest pre-activations of dead latents, above zero;
the term is |e - e_aux|^2 over the variance of e. Shape suffixes: B rows, R rows of a block, A dead
latents, D d_in, O d_out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.kernels import ranks
from saeserve.core.kernels.compiled import array
from saeserve.core.kernels.ranks import bits

_BLOCK_BYTES = 64 * 2**20
"""Bound of a dense [R, A] temporary."""


@dataclass(frozen=True)
class DeadGradients:
    """Gradients of dead latents' rows, and the term itself before its coefficient."""

    share: Tensor
    W_enc_AD: Tensor
    b_enc_A: Tensor
    W_dec_AO: Tensor


def list_dead(dead_F: Tensor, places: int | None) -> tuple[Tensor, Tensor | None]:
    """The dead latents [A], ascending. With `places`, of which there are at least as many as dead
    latents, A is `places`, so that nobody has to wait for their number: other latents take the
    places that are left, and the second tensor, bool [A], says where."""
    if places is None:
        return dead_F.nonzero().squeeze(1), None
    # A stable sort has one result only; those with the lower key come first.
    dead_A = (~dead_F).to(torch.uint8).argsort(stable=True)[:places]
    return dead_A, ~dead_F[dead_A]


def auxiliary(
    residual_BO: Tensor,
    x_BD: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    listed: tuple[Tensor, Tensor | None],
    n: int,
    coefficient: float,
    largest: Callable[[Tensor, int], Tensor] | None = None,
) -> DeadGradients:
    """The term's gradients times `coefficient`; `weights` are W_enc, b_enc, W_dec, `x_BD` is
    centred, `listed` comes from `list_dead`, `n` is at least 1. `largest` makes of h [R, A] the
    ReLU of each row's n largest, zero elsewhere; by default compiled loops do."""
    dead_A, alive_A = listed
    W_AD, b_A, V_AO = (weight[dead_A] for weight in weights)
    if alive_A is not None:
        b_A.masked_fill_(alive_A, -torch.inf)  # never above zero, hence without gradients
    variance = (residual_BO - residual_BO.mean(dim=0)).square().sum()
    exact = variance == 0
    scale = torch.where(exact, 0.0, coefficient / torch.where(exact, 1.0, variance))
    error = variance.new_zeros(())
    out = DeadGradients(error, *(torch.zeros_like(w) for w in (W_AD, b_A, V_AO)))
    size = max(1, _BLOCK_BYTES // (W_AD.element_size() * dead_A.numel()))
    for start in range(0, x_BD.shape[0], size):
        e_RO, x_RD = residual_BO[start : start + size], x_BD[start : start + size]
        f_RA = (largest or _chosen)(torch.addmm(b_A, x_RD, W_AD.T), n)
        left_RO = torch.addmm(e_RO, f_RA, V_AO, alpha=-1)
        error += left_RO.square().sum()
        out.W_dec_AO.addmm_(f_RA.T, left_RO, alpha=-2)
        delta_RA = (left_RO @ V_AO.T).mul_(-2).mul_(f_RA != 0)
        out.W_enc_AD.addmm_(delta_RA.T, x_RD)
        out.b_enc_A.add_(delta_RA.sum(0))
    for gradient in (out.W_enc_AD, out.b_enc_A, out.W_dec_AO):
        gradient.mul_(scale)
    error.copy_(torch.where(exact, 0.0, error / torch.where(exact, 1.0, variance)))
    return out


def _chosen(h_RA: Tensor, n: int) -> Tensor:
    """ReLU of each row's n largest, zero elsewhere; in place of h."""
    if n < h_RA.shape[1]:
        columns_RN = torch.empty(h_RA.shape[0], n, dtype=torch.int64)
        ranks.top_columns(bits(h_RA), array(columns_RN))
        kept_RA = torch.zeros_like(h_RA, dtype=torch.bool).scatter_(1, columns_RN, value=True)
        h_RA.masked_fill_(~kept_RA, 0.0)
    return h_RA.relu_()
