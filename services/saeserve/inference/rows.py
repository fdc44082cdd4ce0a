"""What travels between wire and device: rows of activations and rows of features, as numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeserve import csr

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
SentArray = npt.NDArray[np.float32 | np.float16 | np.uint16]
"""Activations in a type of the wire; uint16 holds the bits of bfloat16."""
IndexArray = npt.NDArray[np.uint16 | np.uint32]
OffsetArray = npt.NDArray[np.int64]
NARROW_LATENTS = 2**16
"""Up to this many latents an index fits u16."""


@dataclass(frozen=True)
class DenseRows:
    """Activations [rows, d], in the type in which they were sent."""

    sent: SentArray

    @property
    def x(self) -> FloatArray:
        """The same in float32: the array itself where that is its type, else a widened copy."""
        return widened(self.sent)

    @property
    def rows(self) -> int:
        """B: what the limits of batch and queue count."""
        return len(self.sent)

    @property
    def d(self) -> int:
        """Columns of a row."""
        return self.sent.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the array, for the sizes of answers and the work done."""
        return self.sent.nbytes

    def part(self, start: int, stop: int) -> DenseRows:
        """Rows start .. stop, as a view."""
        return DenseRows(self.sent[start:stop])


@dataclass(frozen=True)
class FeatureRows:
    """Features in CSR form: offsets [rows + 1], indices ascending in a row, values float32.

    `statistics` [rows, 2] hold mean and deviation of raw rows that the model normalised.
    """

    offsets: OffsetArray
    indices: IndexArray
    values: FloatArray
    d_sae: int
    statistics: FloatArray | None = None

    @property
    def rows(self) -> int:
        """B, rows without an active latent included."""
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, statistics included."""
        known = 0 if self.statistics is None else self.statistics.nbytes
        return self.offsets.nbytes + self.indices.nbytes + self.values.nbytes + known

    def part(self, start: int, stop: int) -> FeatureRows:
        """Rows start .. stop; indices and values are views."""
        offsets, kept = csr.cut(self.offsets, start, stop)
        return FeatureRows(
            offsets,
            self.indices[kept],
            self.values[kept],
            self.d_sae,
            None if self.statistics is None else self.statistics[start:stop],
        )


Rows = DenseRows | FeatureRows


def widened(sent: SentArray) -> FloatArray:
    """Numbers of a type of the wire in float32, which holds all of them exactly."""
    if sent.dtype == np.uint16:
        # bfloat16 is the upper half of a float32.
        return (sent.astype(np.uint32) << 16).view(np.float32)
    return sent.astype(np.float32, copy=False)


def index_type(d_sae: int) -> type[np.uint16] | type[np.uint32]:
    """The narrowest type that holds every index below `d_sae`."""
    return np.uint16 if d_sae <= NARROW_LATENTS else np.uint32


def join(parts: Sequence[Rows]) -> Rows:
    """All rows of `parts` (at least one, all of one kind and width), in order, in fresh memory."""
    dense = [part for part in parts if isinstance(part, DenseRows)]
    if dense:
        return DenseRows(np.concatenate([part.x for part in dense]))
    return join_features([part for part in parts if isinstance(part, FeatureRows)])


def join_features(parts: Sequence[FeatureRows]) -> FeatureRows:
    """`join` for features; statistics are joined where all rows have them."""
    offsets: OffsetArray = csr.joined([part.offsets for part in parts], np.concatenate)
    known = [part.statistics for part in parts if part.statistics is not None]
    return FeatureRows(
        offsets,
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.values for part in parts]),
        parts[0].d_sae,
        np.concatenate(known) if known and sum(map(len, known)) == len(offsets) - 1 else None,
    )
