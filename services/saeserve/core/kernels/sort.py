"""The one counting sort: from entries by row to entries by latent.

Shape suffixes: B rows, N entries, F latents, C chunks of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.kernels.compiled import Array, array, kernel, prange
from saeserve.core.kernels.csr import Csr, offsets_of

CHUNKS = 16
"""Parts of the rows that are sorted side by side, at most: one a thread. The result does not
depend on their number."""


@dataclass(frozen=True)
class ByLatent:
    """The same entries in ascending order of latent and row: those of latent i are at
    starts[i] .. starts[i + 1]."""

    starts: Tensor
    rows: Tensor
    values: Tensor


def by_latent(entries: Csr, latents: int) -> ByLatent:
    """A counting sort, by chunks of rows; `values` may be of any type."""
    chunks = min(CHUNKS, torch.get_num_threads())
    chunk = -(-entries.rows // chunks)
    places = (array(entries.offsets), array(entries.latents))
    counts_FC = torch.zeros(latents, chunks, dtype=torch.int64)
    _count(*places, array(counts_FC), chunk)
    # Chunk c of latent i begins where all smaller latents, and i's chunks before c, end.
    starts = offsets_of(counts_FC.view(-1))
    places_FC = starts[:-1].view_as(counts_FC).clone()
    rows, values = torch.empty_like(entries.latents), torch.empty_like(entries.values)
    _place(*places, array(entries.values), array(places_FC), chunk, array(rows), array(values))
    return ByLatent(starts[::chunks].contiguous(), rows, values)


@kernel
def _count(offsets_B1: Array, latents_N: Array, counts_FC: Array, rows_per_chunk: int) -> None:
    """counts[i, c] += the number of entries of latent i in the rows of chunk c."""
    rows = offsets_B1.size - 1
    for c in prange(counts_FC.shape[1]):
        first, last = min(c * rows_per_chunk, rows), min((c + 1) * rows_per_chunk, rows)
        # The entries of a chunk stand together.
        for n in range(offsets_B1[first], offsets_B1[last]):
            counts_FC[latents_N[n], c] += 1


@kernel
def _place(
    offsets_B1: Array,
    latents_N: Array,
    values_N: Array,
    places_FC: Array,
    rows_per_chunk: int,
    sorted_rows_N: Array,
    sorted_values_N: Array,
) -> None:
    """sorted[places[i, c]++] = (row, value) of each entry of latent i in chunk c, in order."""
    rows = offsets_B1.size - 1
    for c in prange(places_FC.shape[1]):
        # Rows ascend, so a latent's entries do.
        for b in range(c * rows_per_chunk, min((c + 1) * rows_per_chunk, rows)):
            for n in range(offsets_B1[b], offsets_B1[b + 1]):
                i = latents_N[n]
                place = places_FC[i, c]
                sorted_rows_N[place] = b
                sorted_values_N[place] = values_N[n]
                places_FC[i, c] = place + 1
