"""What can be decoded: features as encode gave them, dense ones, sparse ones of others, files.

Everything is checked here, with row numbers of the whole batch, before a byte is sent.
"""

from __future__ import annotations

from typing import Any, Protocol, Union

import numpy as np
import numpy.typing as npt

from saeserve.client.array_files import read_rows
from saeserve.client.arrays import ArrayInput, Rows, rows_of
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.feature_files import stored_features
from saeserve.client.features import IntArray, SparseFeatures
from saeserve.client.local_files import path_of
from saeserve.client.refusals import bad_shape


class SparseMatrix(Protocol):
    """An array of scipy.sparse, in any of its formats."""

    def tocsr(self) -> object:
        """The same by rows."""
        ...


FeatureInput = Union[SparseFeatures, SparseMatrix, ArrayInput]  # noqa: UP007 - ArrayLike is a string to |
"""SparseFeatures, dense features [..., d_sae], a CSR matrix of scipy or torch, or the path of a
file of features or of one dense array."""

_DENSE_BYTES = 16 * 2**20
_REMEDY = "pass features as encode gives them, or a dense array of [..., d_sae]"


def features_of(value: Any) -> SparseFeatures:  # noqa: ANN401 - torch's and scipy's are known by their methods
    """Read and check what a user passed. Raises InvalidArgumentError."""
    path = path_of(value)
    stored = None if path is None else stored_features(path)
    if stored is not None:
        value = stored
    elif hasattr(value, "tocsr"):
        value = _of_scipy(value)
    elif "sparse" in str(getattr(value, "layout", "")):
        value = _of_torch(value)
    elif not isinstance(value, SparseFeatures):
        return _of_dense(read_rows(value, "features"))
    return _checked(value)


def _of_scipy(matrix: Any) -> SparseFeatures:  # noqa: ANN401 - scipy is optional for the client
    csr = matrix.tocsr().copy()
    csr.sum_duplicates()  # sorts as well
    return SparseFeatures(tuple(csr.shape), csr.indptr, csr.indices, csr.data)


def _of_torch(tensor: Any) -> SparseFeatures:  # noqa: ANN401 - torch is not imported
    """A tensor [rows, d_sae] of layout CSR or COO."""
    if len(tensor.shape) != 2:
        raise _misshapen(f"a sparse tensor of shape {list(tensor.shape)} is not a matrix")
    given, shape = tensor.detach().cpu(), tuple(int(axis) for axis in tensor.shape)
    if not given.is_sparse:
        return SparseFeatures(shape, given.crow_indices(), given.col_indices(), given.values())
    given = given.coalesce()  # sorts as well
    row, column = given.indices().numpy()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=shape[0]))])
    return SparseFeatures(shape, offsets, column, given.values())


def _of_dense(dense: Rows) -> SparseFeatures:
    """The entries that are not zero, found a block of rows at a time."""
    flat = dense.flat()
    step = max(1, _DENSE_BYTES // (4 * flat.shape[1]))
    counts = [np.zeros(1, np.int64)]
    indices, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for start in range(0, flat.rows, step):
        part = flat.part(start, min(start + step, flat.rows))
        part.refuse_not_finite()
        x = part.float32()
        row, column = np.nonzero(x)
        counts.append(np.bincount(row, minlength=part.rows))
        indices.append(column)
        values.append(x[row, column])
    offsets = np.cumsum(np.concatenate(counts))
    return SparseFeatures(dense.shape, offsets, np.concatenate(indices), np.concatenate(values))


def _checked(given: SparseFeatures) -> SparseFeatures:
    """The same with plain arrays. Raises InvalidArgumentError unless it is exact CSR."""
    shape = tuple(int(axis) for axis in given.shape)
    offsets, indices = _integers(given.offsets, "offsets"), _integers(given.indices, "indices")
    values = rows_of(given.values, "values").float32() if len(indices) else np.zeros(0, np.float32)
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    if not shape or shape[-1] < 1 or len(offsets) != rows + 1:
        raise _misshapen(f"shape {list(shape)} does not fit {len(offsets)} offsets")
    if (
        offsets[0] != 0
        or (np.diff(offsets) < 0).any()
        or not (offsets[-1] == len(indices) == len(values))
    ):
        raise _wrong(
            f"offsets must ascend from 0 to the {len(indices)} indices and {len(values)} values"
        )
    _check_entries(offsets, indices, values, shape[-1])
    statistics = given.statistics
    if statistics is not None:
        statistics = rows_of(statistics, "statistics").float32()
        if statistics.shape != (rows, 2):
            raise _wrong(f"statistics have shape {list(statistics.shape)}, not [{rows}, 2]")
    return SparseFeatures(shape, offsets, indices, values, given.model, statistics=statistics)


def _check_entries(
    offsets: IntArray, indices: IntArray, values: npt.NDArray[np.float32], d_sae: int
) -> None:
    outside = (indices < 0) | (indices >= d_sae)
    falls = np.zeros(len(indices), bool)
    falls[1:] = np.diff(indices) <= 0
    # The first entry of a row need not exceed the last of the row before.
    firsts = offsets[:-1]
    falls[firsts[firsts < len(indices)]] = False
    infinite = ~np.isfinite(values)
    for bad, what in (
        (outside, f"an index that is not below {d_sae}"),
        (falls, "indices that do not ascend"),
        (infinite, "a value that is not finite"),
    ):
        if bad.any():
            place = int(np.flatnonzero(bad)[0])
            row = int(np.searchsorted(offsets, place, side="right")) - 1
            raise _wrong(f"row {row} has {what}: {indices[place]}={values[place]:g}")


def _integers(value: Any, name: str) -> IntArray:  # noqa: ANN401 - arrays, lists or tensors
    array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise _wrong(f"{name} are {array.dtype} of {array.ndim} axes, not a row of integers")
    return array.astype(np.int64, copy=False)


def _misshapen(what: str) -> InvalidArgumentError:
    return bad_shape(f"features: {what}", field="features", remedy=_REMEDY)


def _wrong(what: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"features: {what}", reason="BAD_FEATURES", field="features", remedy=_REMEDY
    )
