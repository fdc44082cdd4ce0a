"""Pre-activations of a micro-batch and the exact choice of the largest, outside any graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.ops.batch_selection import top_entries
from saeserve.core.ops.entries import dots
from saeserve.core.ops.latents import row_dots

SPARE_CANDIDATES = 16
"""Taken beyond n in low precision, so that the exact top n is among the candidates."""


@dataclass(frozen=True)
class BatchTop:
    """Entries chosen from a micro-batch, in ascending order of row and latent."""

    values_N: Tensor
    rows_N: Tensor
    latents_N: Tensor
    level: Tensor
    """Scalar that parts kept entries from the others."""

    @classmethod
    def at(cls, places_N: Tensor, latents: int, values_N: Tensor, level: Tensor) -> BatchTop:
        """Entries at places of the flattened [B, F]."""
        return cls(values_N, places_N // latents, places_N % latents, level)


@dataclass(frozen=True)
class PreActivations:
    """h = x W^T + b in the type of the encoder GEMM, and what is needed to compute it exactly."""

    x_BD: Tensor
    W_FD: Tensor
    b_F: Tensor
    h_BF: Tensor

    @classmethod
    def compute(cls, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, dtype: torch.dtype) -> PreActivations:
        """One GEMM in `dtype`; `x_BD` is centred already, for rounding comes after centring.

        float32 stands for the parameters' own type.
        """
        low = W_FD.dtype if dtype == torch.float32 else dtype
        with torch.no_grad():
            h_BF = torch.addmm(b_F.to(low), x_BD.to(low), W_FD.to(low).T)
        return cls(x_BD.detach(), W_FD.detach(), b_F.detach(), h_BF)

    def top(self, n: int, among_F: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values and indices [B, n] of each row's n largest, in descending order; of equals
        the lower index.

        `among_F` bool [F] restricts the choice; where it leaves fewer than n, values are -inf.
        After a low-precision GEMM the candidates are computed again in the parameters' type.
        """
        h_BF = self.h_BF if among_F is None else self.h_BF.masked_fill(~among_F, -torch.inf)
        if h_BF.dtype == self.W_FD.dtype:
            return _largest(h_BF, n)
        few = min(n + SPARE_CANDIDATES, h_BF.shape[1])
        # Ascending, so that among equals the lower latent stands first.
        candidates_BC = h_BF.topk(few, dim=1).indices.sort(dim=1).values
        exact_BC = row_dots(self.x_BD, candidates_BC, self.W_FD) + self.b_F[candidates_BC]
        exact_BC = exact_BC.masked_fill(h_BF.gather(1, candidates_BC) == -torch.inf, -torch.inf)
        values_BK, places_BK = _largest(exact_BC, n)
        return values_BK, candidates_BC.gather(1, places_BK)

    def top_of_batch(self, n: int) -> BatchTop:
        """The n largest positive entries of the whole micro-batch; see `batch_selection`.

        After a low-precision GEMM the candidates are computed again in the parameters' type.
        """
        flat_M, latents = self.h_BF.flatten(), self.h_BF.shape[1]
        if flat_M.dtype == self.W_FD.dtype:
            chosen = top_entries(flat_M, n)
            return BatchTop.at(chosen.places_N, latents, flat_M[chosen.places_N], chosen.level)
        spare = n + SPARE_CANDIDATES * self.h_BF.shape[0]
        rough = top_entries(flat_M, spare).places_N
        rows_C, latents_C = rough // latents, rough % latents
        exact_C = dots(self.x_BD, rows_C, latents_C, self.W_FD) + self.b_F[latents_C]
        chosen = top_entries(exact_C, n)
        exact_N = exact_C[chosen.places_N]
        return BatchTop.at(rough[chosen.places_N], latents, exact_N, chosen.level)


def _largest(h_BF: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the n largest in descending order; among equals the lower column wins,
    except on an accelerator, where looking for equals would stall the step."""
    values_BK, columns_BK = h_BF.topk(min(n + 1, h_BF.shape[1]), dim=1)
    if not h_BF.is_cuda:
        tied_B = (values_BK[:, 1:] == values_BK[:, :-1]).any(dim=1)
        settled = h_BF[tied_B].sort(dim=1, descending=True, stable=True).indices
        columns_BK[tied_B] = settled[:, : columns_BK.shape[1]]
    return values_BK[:, :n], columns_BK[:, :n]
