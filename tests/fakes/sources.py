"""Activation sources in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.data.source import ActivationSource
from saeserve.core.ops.draws import generator


class MemorySource:
    """Rows of one tensor, in another order each epoch."""

    def __init__(self, rows_ND: Tensor, seed: int = 0) -> None:
        self._rows_ND = rows_ND
        self._seed = seed

    @property
    def d(self) -> int:
        return self._rows_ND.shape[1]

    @property
    def rows(self) -> int:
        return self._rows_ND.shape[0]

    def batch(self, position: int, size: int) -> Tensor:
        places = [divmod(p, self.rows) for p in range(position, position + size)]
        epochs = {epoch for epoch, _ in places}
        orders = {epoch: self._order(epoch) for epoch in epochs}
        return self._rows_ND[torch.stack([orders[epoch][offset] for epoch, offset in places])]

    def sample(self, n: int, seed: int) -> Tensor:
        order = torch.randperm(self.rows, generator=generator(seed, 0, "sample"))
        return self._rows_ND[order[: min(n, self.rows)]]

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(self.rows, generator=generator(self._seed, epoch, "order"))


class CountedSource:
    """Another source, and what was asked of it."""

    def __init__(self, inner: ActivationSource) -> None:
        self.inner = inner
        self.reads: list[tuple[int, int]] = []
        self.samples: list[tuple[int, int]] = []

    @property
    def d(self) -> int:
        return self.inner.d

    @property
    def rows(self) -> int:
        return self.inner.rows

    def batch(self, position: int, size: int) -> Tensor:
        self.reads.append((position, size))
        return self.inner.batch(position, size)

    def sample(self, n: int, seed: int) -> Tensor:
        self.samples.append((n, seed))
        return self.inner.sample(n, seed)


class PlantedSource:
    """An endless stream of sparse sums of known unit features, with amplitudes in [0.5, 1.5].

    Draws are keyed by position, so batches must be asked for at the same boundaries again.
    """

    rows = 2**40

    def __init__(self, features: int, d: int, active: int, seed: int) -> None:
        drawn_GD = torch.randn(features, d, generator=generator(seed, 0, "features"))
        self.features_GD = drawn_GD / drawn_GD.square().sum(dim=1, keepdim=True).sqrt()
        self._active = active
        self._seed = seed

    @property
    def d(self) -> int:
        return self.features_GD.shape[1]

    def batch(self, position: int, size: int) -> Tensor:
        draws = generator(self._seed, position, "rows")
        score_BG = torch.rand(size, self.features_GD.shape[0], generator=draws)
        chosen_BK = score_BG.topk(self._active, dim=1).indices
        amplitude_BK = torch.rand(size, self._active, generator=draws) + 0.5
        codes_BG = torch.zeros_like(score_BG).scatter_(1, chosen_BK, amplitude_BK)
        return codes_BG @ self.features_GD

    def sample(self, n: int, seed: int) -> Tensor:
        return self.batch(self.rows + seed, n)

    def recovered(self, W_dec_FD: Tensor, cosine: float) -> float:
        """Share of the features that some decoder row points along, beyond `cosine`."""
        norms_F1 = W_dec_FD.square().sum(dim=1, keepdim=True).sqrt()
        cosine_GF = self.features_GD @ (W_dec_FD / norms_F1).T
        return float((cosine_GF.amax(dim=1) > cosine).double().mean())
