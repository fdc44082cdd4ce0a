"""Sparse features as the SDK hands them out: plain CSR arrays, scipy or dense on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def _no_rows() -> IntArray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class SparseFeatures:
    """Features of a batch: row r holds `indices[offsets[r]:offsets[r + 1]]`, ascending.

    `shape` is the input's leading axes followed by d_sae.
    """

    shape: tuple[int, ...]
    offsets: IntArray
    indices: IntArray
    values: FloatArray
    model: str = ""
    """models/<name>/versions/<n> that answered; decode refuses another. Empty: not checked."""
    queue_seconds: float = 0.0
    """Time waited in the server's queue, summed over the requests of the call."""
    compute_seconds: float = 0.0
    """Time computed, summed likewise."""
    statistics: FloatArray | None = None
    """[rows, 2]: mean and deviation of each raw row, of models that normalise rows; decode needs
    them."""
    beyond_norm_bound: IntArray = field(default_factory=_no_rows)
    """Numbers of the rows whose norm exceeds the model's bound: it was not trained on such, and
    what it makes of them means little."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.shape[-1]

    @property
    def l0(self) -> float:
        """Mean number of active latents a row."""
        return len(self.values) / max(self.rows, 1)

    def row(self, index: int) -> tuple[IntArray, FloatArray]:
        """(indices, values) of one row."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.indices[span], self.values[span]

    def to_dense(self) -> FloatArray:
        """Dense array of `shape`."""
        dense = np.zeros((self.rows, self.d_sae), np.float32)
        rows = np.repeat(np.arange(self.rows), np.diff(self.offsets))
        dense[rows, self.indices] = self.values
        return dense.reshape(self.shape)

    def to_scipy(self) -> csr_array:
        """scipy.sparse.csr_array of [rows, d_sae]; needs scipy."""
        from scipy.sparse import csr_array  # scipy is optional for the client

        return csr_array((self.values, self.indices, self.offsets), shape=(self.rows, self.d_sae))


def concatenate(parts: Sequence[SparseFeatures], leading: tuple[int, ...]) -> SparseFeatures:
    """The rows of all parts in order, as one batch with `leading` axes."""
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    firsts = np.cumsum([0, *(part.rows for part in parts)])
    beyond = [part.beyond_norm_bound + int(n) for part, n in zip(parts, firsts, strict=False)]
    known = [part.statistics for part in parts if part.statistics is not None]
    return SparseFeatures(
        (*leading, parts[0].d_sae),
        offsets,
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.values for part in parts]),
        parts[0].model,
        sum(part.queue_seconds for part in parts),
        sum(part.compute_seconds for part in parts),
        np.concatenate(known) if known and sum(map(len, known)) == len(counts) else None,
        np.concatenate(beyond),
    )
