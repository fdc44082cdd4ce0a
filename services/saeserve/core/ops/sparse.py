"""Sparse features in CSR form: built from dense rows, cut, joined and multiplied by a decoder.

Shape suffixes: B rows, F d_sae, O d_out, N stored entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from saeserve.core.errors import DataError, DataMismatchError
from saeserve.core.ops.selection import Selected

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
class SparseRows:
    """Features of rows in CSR form.

    `offsets` int64 [rows + 1], `indices` int64 [N] ascending in each row, `values` float [N];
    `statistics` of the rows where the model normalised them.
    """

    offsets: Tensor
    indices: Tensor
    values: Tensor
    d_sae: int
    statistics: RowStatistics | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.offsets.numel() - 1

    @property
    def row_of_entry(self) -> Tensor:
        """int64 [N]: the row that each entry belongs to."""
        numbers = torch.arange(self.rows, device=self.offsets.device)
        return numbers.repeat_interleave(self.offsets.diff(), output_size=self.values.numel())

    def to(self, device: torch.device) -> SparseRows:
        """The same rows on `device`."""
        return SparseRows(
            self.offsets.to(device),
            self.indices.to(device),
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
        offsets=_offsets(torch.bincount(row_N, minlength=h_BF.shape[0])),
        indices=column_N,
        values=h_BF[row_N, column_N],
        d_sae=h_BF.shape[1],
    )


def from_dense(f_BF: Tensor) -> SparseRows:
    """The non-zero entries of f [B, F]."""
    return from_mask(f_BF, f_BF != 0)


def from_selected(selected: Selected, d_sae: int) -> SparseRows:
    """The non-zero entries among those selected from rows of width `d_sae`."""
    keep_BK = selected.values_BK != 0
    return SparseRows(
        offsets=_offsets(keep_BK.sum(dim=1)),
        indices=selected.indices_BK[keep_BK],
        values=selected.values_BK[keep_BK],
        d_sae=d_sae,
    )


def to_dense(features: SparseRows) -> Tensor:
    """Features [B, F], zero where nothing is stored."""
    f_BF = features.values.new_zeros(features.rows, features.d_sae)
    f_BF[features.row_of_entry, features.indices] = features.values
    return f_BF


def slice_rows(features: SparseRows, start: int, stop: int) -> SparseRows:
    """Rows start .. stop; indices and values are views."""
    offsets = features.offsets[start : stop + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    known = features.statistics
    return SparseRows(
        offsets - first,
        features.indices[first:last],
        features.values[first:last],
        features.d_sae,
        None
        if known is None
        else RowStatistics(known.mean[start:stop], known.deviation[start:stop]),
    )


def split(features: SparseRows, sizes: Sequence[int]) -> list[SparseRows]:
    """Consecutive groups of rows. Raises DataMismatchError unless `sizes` add up to all rows."""
    if sum(sizes) != features.rows or any(size < 0 for size in sizes):
        raise DataMismatchError(f"sizes {list(sizes)} do not split {features.rows} rows")
    edges = [0, *accumulate(sizes)]
    return [slice_rows(features, start, stop) for start, stop in pairwise(edges)]


def concat(parts: Sequence[SparseRows]) -> SparseRows:
    """All rows of `parts` (at least one), in order. Raises DataMismatchError when widths differ,
    or when some parts have statistics of their rows and some have none."""
    widths = {part.d_sae for part in parts}
    if len(widths) != 1:
        raise DataMismatchError(f"cannot join feature rows of widths {sorted(widths)}")
    return SparseRows(
        offsets=_offsets(torch.cat([part.offsets.diff() for part in parts])),
        indices=torch.cat([part.indices for part in parts]),
        values=torch.cat([part.values for part in parts]),
        d_sae=widths.pop(),
        statistics=_joined([part.statistics for part in parts]),
    )


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
        features.indices,
        W_dec_FO,
        features.offsets,
        mode="sum",
        per_sample_weights=features.values.to(W_dec_FO.dtype),
        include_last_offset=True,
    )


def check(features: SparseRows) -> None:
    """Raise DataError, naming the row, unless `features` is a well-formed CSR of finite values.

    For features that came from outside: `decode` trusts its input.
    """
    counts = features.offsets.diff()
    stored = features.indices.numel()
    if features.values.numel() != stored:
        raise DataError(f"{stored} indices but {features.values.numel()} values")
    if int(features.offsets[0]) != 0 or int(features.offsets[-1]) != stored:
        raise DataError(f"offsets must begin at 0 and end at the {stored} entries")
    if bool((counts < 0).any()):
        raise DataError("offsets fall", row=_first(counts < 0))
    rows = features.row_of_entry
    outside = (features.indices < 0) | (features.indices >= features.d_sae)
    _refuse(outside, rows, f"an index is not in 0 .. {features.d_sae - 1}")
    falls = (features.indices.diff() <= 0) & (rows.diff() == 0)
    _refuse(falls, rows, "indices do not ascend")
    _refuse(~features.values.isfinite(), rows, "a value is NaN or infinite")


def _refuse(wrong_N: Tensor, row_N: Tensor, message: str) -> None:
    if bool(wrong_N.any()):
        raise DataError(message, row=int(row_N[_first(wrong_N)]), remedy="correct the features")


def _first(wrong: Tensor) -> int:
    return int(wrong.nonzero()[0, 0])


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


def _offsets(counts_B: Tensor) -> Tensor:
    return torch.cat([counts_B.new_zeros(1), counts_B.cumsum(0)]).long()
