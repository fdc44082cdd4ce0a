"""Sparse features in CSR form: built from dense rows, cut, joined and multiplied by a decoder.

Shape suffixes: B rows, F d_sae, O d_out, N stored entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from saeserve import csr
from saeserve.core.kernels.csr import Csr, join, offsets_of
from saeserve.core.ops.selection import Selected
from saeserve.errors import DataMismatchError

BLOCK_BYTES = 64 * 2**20
"""Bound of a dense [rows, d_sae] temporary."""
_DENSE_SHARE = 0.08
"""Above this share of non-zeros a GEMM beats gathering rows of a decoder that leaves the cache."""


@dataclass(frozen=True)
class RowStatistics:
    """Mean and standard deviation of each raw row, float [rows]: what undoes its layer norm."""

    mean: Tensor
    deviation: Tensor

    def to(self, device: torch.device) -> RowStatistics:
        """The same on `device`."""
        return RowStatistics(self.mean.to(device), self.deviation.to(device))


@dataclass(frozen=True)
class SparseRows(Csr):
    """Features of rows; `latents` are int64 and ascend in each row.

    `statistics` of the rows where the model normalised them.
    """

    d_sae: int
    statistics: RowStatistics | None = None

    def to(self, device: torch.device) -> SparseRows:
        """The same rows on `device`."""
        return SparseRows(
            self.offsets.to(device),
            self.latents.to(device),
            self.values.to(device),
            self.d_sae,
            None if self.statistics is None else self.statistics.to(device),
        )


def rows_per_block(d_sae: int) -> int:
    """Rows whose dense float32 features fit BLOCK_BYTES; at least one."""
    return max(1, BLOCK_BYTES // (4 * d_sae))


def from_mask(h_BF: Tensor, keep_BF: Tensor) -> SparseRows:
    """The entries of h [B, F] where keep is true; the mask is searched once."""
    places_N2 = keep_BF.nonzero()
    row_N, column_N = places_N2[:, 0], places_N2[:, 1].contiguous()
    return SparseRows(
        offsets=offsets_of(torch.bincount(row_N, minlength=h_BF.shape[0])),
        latents=column_N,
        values=h_BF[row_N, column_N],
        d_sae=h_BF.shape[1],
    )


def from_selected(selected: Selected, d_sae: int) -> SparseRows:
    """The non-zero entries among those selected from rows of width `d_sae`."""
    keep_BK = selected.values_BK != 0
    return SparseRows(
        offsets=offsets_of(keep_BK.sum(dim=1)),
        latents=selected.indices_BK[keep_BK],
        values=selected.values_BK[keep_BK],
        d_sae=d_sae,
    )


def to_dense(features: SparseRows) -> Tensor:
    """Features [B, F], zero where nothing is stored."""
    f_BF = features.values.new_zeros(features.rows, features.d_sae)
    f_BF[features.row_of_entry, features.latents] = features.values
    return f_BF


def slice_rows(features: SparseRows, start: int, stop: int) -> SparseRows:
    """Rows start .. stop; latents and values are views."""
    offsets, kept = csr.cut(features.offsets, start, stop)
    known = features.statistics
    part = RowStatistics(known.mean[start:stop], known.deviation[start:stop]) if known else None
    return SparseRows(offsets, features.latents[kept], features.values[kept], features.d_sae, part)


def concat(parts: Sequence[SparseRows]) -> SparseRows:
    """All rows of `parts` (at least one), in order. Raises DataMismatchError when widths differ,
    or when some parts have statistics of their rows and some have none."""
    widths = {part.d_sae for part in parts}
    if len(widths) != 1:
        raise DataMismatchError(f"cannot join feature rows of widths {sorted(widths)}")
    whole, statistics = join(parts), _joined([part.statistics for part in parts])
    return SparseRows(whole.offsets, whole.latents, whole.values, widths.pop(), statistics)


def decode(features: SparseRows, W_dec_FO: Tensor) -> Tensor:
    """features @ W_dec, [B, O], in the decoder's type.

    Gathers decoder rows without a [N, O] temporary; where rows are dense, a GEMM in row blocks.
    """
    stored = features.values.numel()
    if stored > _DENSE_SHARE * features.rows * features.d_sae:
        return _decode_dense(features, W_dec_FO)
    if stored == 0:
        return W_dec_FO.new_zeros(features.rows, W_dec_FO.shape[1])
    return F.embedding_bag(
        features.latents,
        W_dec_FO,
        features.offsets,
        mode="sum",
        per_sample_weights=features.values.to(W_dec_FO.dtype),
        include_last_offset=True,
    )


def _decode_dense(features: SparseRows, W_dec_FO: Tensor) -> Tensor:
    size = rows_per_block(features.d_sae)
    blocks = [
        to_dense(slice_rows(features, start, min(start + size, features.rows))).to(W_dec_FO.dtype)
        @ W_dec_FO
        for start in range(0, features.rows, size)
    ]
    return torch.cat(blocks)


def _joined(parts: Sequence[RowStatistics | None]) -> RowStatistics | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if len(known) < len(parts):
        raise DataMismatchError("cannot join feature rows with and without their rows' statistics")
    return RowStatistics(
        torch.cat([part.mean for part in known]), torch.cat([part.deviation for part in known])
    )
