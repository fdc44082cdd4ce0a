"""Foreign .npy and .safetensors files: headers checked before a value is read, rows in bounded
memory, nothing unpickled."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from saeserve.core.data.tensor_file import STORAGE_OF_CODE, TensorFile, open_tensors
from saeserve.core.specs.jobs import StorageType
from saeserve.errors import DataError

MAX_NPY_HEADER = 4096
T = TypeVar("T")
# What a malformed header raises depends on where numpy's literal parser gives up on it.
_MALFORMED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    TokenError,
    RecursionError,
    MemoryError,
)
_NPY_TYPES: dict[str, StorageType] = {
    "float16": "float16",
    "float32": "float32",
    "float64": "float32",
}
_TYPES_OF_CODE: dict[str, StorageType] = {**STORAGE_OF_CODE, "F64": "float32"}
_BFLOAT16 = b"'<V2'"
"""How numpy.save writes the type of an array of ml_dtypes' bfloat16, which numpy does not know."""


class InputFile(Protocol):
    """Matrices with the same number of rows, one a source."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def rows(self) -> int:
        """Rows of each matrix."""
        ...

    @property
    def widths(self) -> dict[str, int]:
        """d of each source."""
        ...

    @property
    def dtype(self) -> StorageType:
        """The type that all matrices are stored in: their own, or float32 for float64."""
        ...

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start .. stop of every source, [stop - start, d], in the file's own type."""
        ...


class NpyFile:
    """A .npy file: one matrix, which becomes `source`."""

    def __init__(self, path: Path, source: str) -> None:
        """Check the header. Raises DataError."""
        self.name = path.name
        self._path = path
        self._source = source
        shape, self._fortran, self._numpy_type, self._offset, bfloat16 = _npy_header(path)
        self.dtype: StorageType = "bfloat16" if bfloat16 else _npy_type(self._numpy_type, self.name)
        self.rows, self._d = _check_shape(shape, self.name)
        expected = self._offset + self.rows * self._d * self._numpy_type.itemsize
        found = path.stat().st_size
        if found != expected:
            raise DataError(
                f"has {found} bytes where its header [{self.rows}, {self._d}] {self.dtype} "
                f"makes {expected}",
                shard=self.name,
                remedy="write the file again; it was cut short or appended to",
            )

    @property
    def widths(self) -> dict[str, int]:
        """d of the one source."""
        return {self._source: self._d}

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start .. stop, [stop - start, d]."""
        mapped = np.memmap(
            self._path,
            dtype=self._numpy_type,
            mode="r",
            offset=self._offset,
            shape=(self.rows, self._d),
            order="F" if self._fortran else "C",
        )
        if self.dtype == "bfloat16":
            bits = np.array(mapped[start:stop], order="C").view("<i2").astype(np.int16, copy=False)
            return {self._source: torch.as_tensor(bits).view(torch.bfloat16)}
        native = self._numpy_type.newbyteorder("=")
        return {self._source: torch.as_tensor(np.array(mapped[start:stop], native, order="C"))}


class SafetensorsFile:
    """A .safetensors file; `wanted` pairs tensors with sources (none: all, by their names)."""

    def __init__(self, path: Path, wanted: Sequence[tuple[str, str]]) -> None:
        """Check the header. Raises DataError."""
        self.name = path.name
        self._path = path
        with open_tensors(path, self.name) as file:
            self._tensors = _choose(file.keys(), wanted, self.name)
            shapes = {name: _matrix_shape(file, name, self.name) for name in self._tensors}
            types: dict[str, StorageType] = {
                name: _matrix_type(file, name, self.name) for name in self._tensors
            }
        self.rows = _only({name: shape[0] for name, shape in shapes.items()}, "rows", self.name)
        self.dtype: StorageType = _only(types, "dtype", self.name)
        self._widths = {source: shapes[name][1] for name, source in self._tensors.items()}

    @property
    def widths(self) -> dict[str, int]:
        """d of each source."""
        return dict(self._widths)

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Rows start .. stop of every source, [stop - start, d]."""
        with open_tensors(self._path, self.name) as file:
            return {
                source: file.get_slice(name)[start:stop].clone()
                for name, source in self._tensors.items()
            }


def _npy_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int, bool]:
    """(shape, fortran order, dtype, offset of the data, whether it is bfloat16) of a .npy file."""
    try:
        with path.open("rb") as file:
            head = io.BytesIO(file.read(MAX_NPY_HEADER))
        shape, fortran, dtype = _parse_npy_header(head)
    except _MALFORMED as error:
        raise DataError(
            f"cannot be read as .npy: {error}",
            shard=path.name,
            remedy="write it with numpy.save(file, array, allow_pickle=False)",
        ) from error
    bfloat16 = _BFLOAT16 in head.getvalue()[: head.tell()]
    return shape, fortran, dtype, head.tell(), bfloat16


def _parse_npy_header(head: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(head)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(head)
    raise ValueError(f"version {version} of the format holds no plain matrix")


def _npy_type(dtype: np.dtype[np.generic], name: str) -> StorageType:
    if dtype.name not in _NPY_TYPES:
        raise _type_error(dtype.name, name)
    return _NPY_TYPES[dtype.name]


def _type_error(dtype: str, name: str, tensor: str = "") -> DataError:
    what = f"tensor {tensor} is" if tensor else "is"
    return DataError(
        f"{what} of type {dtype}; accepted are float16, bfloat16, float32 and float64",
        shard=name,
        remedy="convert it to float32, or leave it out by listing ingest.sources",
    )


def _check_shape(shape: tuple[int, ...], name: str, tensor: str = "") -> tuple[int, int]:
    what = f"tensor {tensor}" if tensor else "array"
    if len(shape) != 2:
        raise DataError(
            f"the {what} has shape {list(shape)}; a matrix [rows, d] is needed",
            shard=name,
            remedy="reshape it to [rows, d]",
        )
    if min(shape) < 1:
        raise DataError(
            f"the {what} has shape {list(shape)} and so holds nothing",
            shard=name,
            remedy="leave the file out",
        )
    return int(shape[0]), int(shape[1])


def _matrix_shape(file: TensorFile, tensor: str, name: str) -> tuple[int, int]:
    return _check_shape(tuple(file.get_slice(tensor).get_shape()), name, tensor)


def _matrix_type(file: TensorFile, tensor: str, name: str) -> StorageType:
    code = file.get_slice(tensor).get_dtype()
    if code not in _TYPES_OF_CODE:
        raise _type_error(code, name, tensor)
    return _TYPES_OF_CODE[code]


def _choose(tensors: Sequence[str], wanted: Sequence[tuple[str, str]], name: str) -> dict[str, str]:
    """Tensor → source. Without its name, the only tensor, or the one named as the source."""
    if not tensors:
        raise DataError("holds no tensors", shard=name, remedy="leave the file out")
    if not wanted:
        return {tensor: tensor for tensor in sorted(tensors)}
    chosen: dict[str, str] = {}
    for tensor, source in wanted:
        found = tensor or (tensors[0] if len(tensors) == 1 else source)
        if found not in tensors:
            raise DataError(
                f"there is no tensor {found}; it has {', '.join(sorted(tensors))}",
                shard=name,
                remedy="name one of these in ingest.sources",
            )
        if found in chosen:
            raise DataError(
                f"tensor {found} is asked for twice",
                shard=name,
                remedy="name each tensor once in ingest.sources",
            )
        chosen[found] = source
    return chosen


def _only(values: Mapping[str, T], what: str, name: str) -> T:
    """The value that all tensors of a file share."""
    if len(set(values.values())) > 1:
        listed = ", ".join(f"{tensor}: {value}" for tensor, value in values.items())
        raise DataError(
            f"its tensors differ in {what} ({listed})",
            shard=name,
            remedy=f"give every source the same {what}",
        )
    return next(iter(values.values()))
