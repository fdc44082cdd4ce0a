"""Some entries of a matrix, one row after the other: what sparse steps and exports compute with.

Shape suffixes: B rows, N entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve import csr


@dataclass(frozen=True)
class Csr:
    """Entries of row b are those at offsets[b] .. offsets[b + 1].

    `offsets` int64 [B + 1] begin at 0, `latents` are integers [N], `values` floats [N].
    """

    offsets: Tensor
    latents: Tensor
    values: Tensor

    @property
    def rows(self) -> int:
        """B, rows without an entry included."""
        return self.offsets.numel() - 1

    @property
    def row_of_entry(self) -> Tensor:
        """int64 [N]: the row that each entry belongs to."""
        numbers = torch.arange(self.rows, device=self.offsets.device)
        return numbers.repeat_interleave(self.offsets.diff(), output_size=self.values.numel())

    def at(self, places_N: Tensor) -> Csr:
        """Only the entries at these places, which ascend."""
        offsets = torch.searchsorted(places_N, self.offsets)
        return Csr(offsets, self.latents[places_N], self.values[places_N])


def offsets_of(counts_B: Tensor) -> Tensor:
    """Where the entries of each row begin, and where the last one's end: int64 [B + 1]."""
    offsets = torch.zeros(counts_B.numel() + 1, dtype=torch.int64, device=counts_B.device)
    torch.cumsum(counts_B, 0, out=offsets[1:])
    return offsets


def join(parts: Sequence[Csr]) -> Csr:
    """The rows of all parts (at least one), in order."""
    return Csr(
        csr.joined([part.offsets for part in parts], torch.cat),
        torch.cat([part.latents for part in parts]),
        torch.cat([part.values for part in parts]),
    )
