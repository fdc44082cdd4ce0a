"""Pre-activations of a micro-batch and the exact choice of the largest, outside any graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.ops.latents import row_dots

SPARE_CANDIDATES = 16
"""Taken beyond n in low precision, so that the exact top n is among the candidates."""


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
        """Values and indices [B, n] of each row's n largest, in descending order.

        `among_F` bool [F] restricts the choice; where it leaves fewer than n, values are -inf.
        After a low-precision GEMM the candidates are computed again in the parameters' type.
        """
        h_BF = self.h_BF if among_F is None else self.h_BF.masked_fill(~among_F, -torch.inf)
        if h_BF.dtype == self.W_FD.dtype:
            values_BK, indices_BK = h_BF.topk(n, dim=1)
            return values_BK, indices_BK
        rough_BC, candidates_BC = h_BF.topk(min(n + SPARE_CANDIDATES, h_BF.shape[1]), dim=1)
        exact_BC = row_dots(self.x_BD, candidates_BC, self.W_FD) + self.b_F[candidates_BC]
        exact_BC = exact_BC.masked_fill(rough_BC == -torch.inf, -torch.inf)
        values_BK, places_BK = exact_BC.topk(n, dim=1)
        return values_BK, candidates_BC.gather(1, places_BK)
