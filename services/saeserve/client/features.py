"""Sparse features as the SDK hands them out: plain CSR arrays, scipy or dense on request."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from saeserve import csr

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

    >>> features = client.encode("my-sae", activations)
    >>> features.shape, features.l0, features.model
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
        """B, rows without an active latent included."""
        return len(self.offsets) - 1

    @property
    def d_sae(self) -> int:
        """Latents of the model, active or not."""
        return self.shape[-1]

    @property
    def l0(self) -> float:
        """Mean number of active latents a row."""
        return len(self.values) / max(self.rows, 1)

    def row(self, index: int) -> tuple[IntArray, FloatArray]:
        """(indices, values) of one row.

        >>> indices, values = features.row(0)
        """
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.indices[span], self.values[span]

    def part(self, start: int, stop: int) -> SparseFeatures:
        """Rows start .. stop, as a batch [stop - start, d_sae] of its own.

        >>> first = features.part(0, 100)
        """
        offsets, kept = csr.cut(self.offsets, start, stop)
        beyond = self.beyond_norm_bound
        return replace(
            self,
            shape=(stop - start, self.d_sae),
            offsets=offsets,
            indices=self.indices[kept],
            values=self.values[kept],
            statistics=None if self.statistics is None else self.statistics[start:stop],
            beyond_norm_bound=beyond[(beyond >= start) & (beyond < stop)] - start,
        )

    def to_dense(self) -> FloatArray:
        """Dense array of `shape`, float32.

        >>> dense = features.to_dense()  # decode takes such an array as well
        """
        dense = np.zeros((self.rows, self.d_sae), np.float32)
        rows = np.repeat(np.arange(self.rows), np.diff(self.offsets))
        dense[rows, self.indices] = self.values
        return dense.reshape(self.shape)

    def to_scipy(self) -> csr_array:
        """scipy.sparse.csr_array of [rows, d_sae]; needs scipy.

        >>> matrix = features.to_scipy()
        """
        from scipy.sparse import csr_array  # scipy is optional for the client

        return csr_array((self.values, self.indices, self.offsets), shape=(self.rows, self.d_sae))

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write everything to a .npz file, which `decode` and `load` read.

        >>> features.save("features.npz")
        """
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        with open(file, "wb") as output:
            np.savez(output, **{name: each for name, each in arrays.items() if each is not None})

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> SparseFeatures:
        """Read what `save`, or `saeserve encode --out`, wrote. Raises ValueError for another file.

        >>> features.save("features.npz")
        >>> features = SparseFeatures.load("features.npz")
        """
        # numpy leaves a file open that it does not take for an archive.
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            if missing := {"shape", "offsets", "indices", "values"} - set(stored.files):
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            return cls(
                tuple(int(axis) for axis in stored["shape"]),
                stored["offsets"].astype(np.int64),
                stored["indices"].astype(np.int64),
                stored["values"].astype(np.float32),
                str(stored["model"]) if "model" in stored else "",
                float(stored["queue_seconds"]) if "queue_seconds" in stored else 0.0,
                float(stored["compute_seconds"]) if "compute_seconds" in stored else 0.0,
                stored.get("statistics"),
                stored["beyond_norm_bound"] if "beyond_norm_bound" in stored else _no_rows(),
            )


def concatenate(parts: Sequence[SparseFeatures], leading: tuple[int, ...]) -> SparseFeatures:
    """The rows of all parts in order, as one batch with `leading` axes."""
    offsets: IntArray = csr.joined([part.offsets for part in parts], np.concatenate)
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
        np.concatenate(known) if known and sum(map(len, known)) == len(offsets) - 1 else None,
        np.concatenate(beyond),
    )
