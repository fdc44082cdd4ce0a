"""The entries that a step of the TopK family works with.

Shape suffixes: B rows, N entries, E edges of a row's groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.kernels.csr import Csr


@dataclass(frozen=True)
class Entries(Csr):
    """Active latents: those of row b and group g stand at edges[b, g] .. edges[b, g + 1].

    A reconstruction with the first g groups is a prefix; values are positive (or NaN: a
    divergence is shown, never hidden).
    """

    edges_BE: Tensor

    @property
    def groups(self) -> int:
        """Number of groups of a row."""
        return self.edges_BE.shape[1] - 1

    @property
    def by_group(self) -> Csr:
        """The same entries with the groups of all rows as rows: group g of row b is b G + g."""
        starts, last = self.edges_BE[:, :-1].reshape(-1), self.offsets[-1:]
        return Csr(torch.cat([starts, last]), self.latents, self.values)
