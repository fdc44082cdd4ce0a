"""What stands in for rows without an SAE: k principal components, and a dictionary of noise.

Both keep k numbers a row, as the SAE does on average, and are fitted to training rows of the site
that is written. Shape suffixes: N rows, O d_out, K components or active latents, F d_sae.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.ops import sparse
from saeserve.core.ops.selection import Selected, top_k

FIT_ROWS = 16_384
"""Training rows that components and means are fitted to."""
_OVERSAMPLED, _ITERATIONS = 8, 4
"""Settings of the randomised decomposition (Halko, Martinsson, Tropp 2011, algorithm 4.4)."""
_GAIN_ROWS = 2048


@dataclass(frozen=True)
class Principal:
    """The k principal components of rows, which need not be centred."""

    mean_O: Tensor
    basis_OK: Tensor

    @classmethod
    def fit(cls, x_NO: Tensor, k: int, seed: int) -> Principal:
        """Fit to rows float32 [N, O]; k is cut to what they have."""
        mean_O = x_NO.mean(dim=0)
        most = min(x_NO.shape)
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(seed)
        _, _, basis_OQ = torch.pca_lowrank(
            x_NO, q=min(most, k + _OVERSAMPLED), center=True, niter=_ITERATIONS
        )
        torch.default_generator.set_state(before)
        return cls(mean_O, basis_OQ[:, : max(1, min(k, most))])

    def to(self, device: torch.device) -> Principal:
        """The same on `device`."""
        return Principal(self.mean_O.to(device), self.basis_OK.to(device))

    def reconstruct(self, x_NO: Tensor) -> Tensor:
        """The rows' projections, [N, O]."""
        centred_NO = x_NO - self.mean_O
        return self.mean_O + (centred_NO @ self.basis_OK) @ self.basis_OK.T


@dataclass(frozen=True)
class RandomDictionary:
    """Decoder rows of random directions, as many and as long as the SAE's; the k that a row points
    along most are active, as tied weights would have it."""

    mean_O: Tensor
    W_FO: Tensor
    k: int
    gain: float = 1.0
    """One factor for all rows, which makes the error on training rows smallest."""

    @classmethod
    def fit(cls, x_NO: Tensor, W_dec_FO: Tensor, k: int, seed: int) -> RandomDictionary:
        """With the norms of `W_dec_FO`; the mean and gain are those of the rows [N, O]."""
        draws = torch.Generator().manual_seed(seed)
        noise_FO = torch.randn(W_dec_FO.shape, generator=draws).to(x_NO)
        norms_F = W_dec_FO.to(x_NO).square().sum(dim=1).sqrt()
        W_FO = noise_FO * (norms_F / noise_FO.square().sum(dim=1).sqrt())[:, None]
        plain = cls(x_NO.mean(dim=0), W_FO, min(k, len(W_FO)))
        centred_NO = x_NO[:_GAIN_ROWS] - plain.mean_O
        made_NO = plain.reconstruct(x_NO[:_GAIN_ROWS]) - plain.mean_O
        squares = float(made_NO.square().sum())
        gain = float((centred_NO * made_NO).sum()) / squares if squares else 1.0
        return cls(plain.mean_O, W_FO, plain.k, gain)

    def reconstruct(self, x_NO: Tensor) -> Tensor:
        """What k random directions make of the rows, [N, O]."""
        size = sparse.rows_per_block(len(self.W_FO))
        blocks = [self._block(part_NO) for part_NO in torch.split(x_NO, size)]
        return torch.cat(blocks) if blocks else torch.empty_like(x_NO)

    def _block(self, x_NO: Tensor) -> Tensor:
        found = top_k((x_NO - self.mean_O) @ self.W_FO.T, self.k)
        kept = Selected(found.values_BK.relu(), found.indices_BK)
        features = sparse.from_selected(kept, len(self.W_FO))
        return self.mean_O + self.gain * sparse.decode(features, self.W_FO)
