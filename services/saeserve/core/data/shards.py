"""The form of a shard on disk (`core.formats.manifest.ShardEntry`) and how one is read."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeserve.core.data.tensor_file import STORAGE_OF_CODE, TensorFile, open_tensors
from saeserve.core.moving import moved
from saeserve.core.specs.jobs import StorageType
from saeserve.errors import DataError, SpecError

SHARD_FOLDER = "shards"
COLUMNS = ("document", "sequence", "position", "token_id")
"""int32 columns of every shard, one value a row."""

IntArray = NDArray[np.int32]
IndexArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


def shard_name(index: int) -> str:
    """File of shard `index`, relative to the data set's folder."""
    return f"{SHARD_FOLDER}/{index:05d}.safetensors"


SOURCE_NAME = re.compile(r"(?!__metadata__$)[A-Za-z0-9_][A-Za-z0-9._/+-]{0,127}")
"""What a source may be called: the names of modules and hooks, as paths and in commands."""


def norm_column(source: str) -> str:
    """Name of the float32 column that holds the row norms of `source`."""
    return f"norm.{source}"


def check_source_name(name: str, field: str) -> None:
    """Raise SpecError, which states the rule, for a name that no source may have."""
    if SOURCE_NAME.fullmatch(name) and name not in COLUMNS and not name.startswith("norm."):
        return
    raise SpecError(
        field,
        f"a source cannot be called {name!r}: a name is 1 to 128 of A-Z a-z 0-9 . _ - / +, "
        f"begins with a letter, digit or _, and is none of {', '.join(COLUMNS)} and norm.*",
        remedy="rename the tensor, or name its source in ingest.sources",
    )


class Shard:
    """An open shard; what is not indexed is not read."""

    def __init__(self, file: TensorFile, name: str) -> None:
        self._file = file
        self.name = name

    @property
    def rows(self) -> int:
        """Rows of the shard, by its header: no tensor is read."""
        return self._file.get_slice("document").get_shape()[0]

    def column(self, name: str) -> IntArray:
        """One of COLUMNS, int32 [rows]."""
        return self._file.get_tensor(name).numpy()

    def documents(self, known: int) -> IntArray:
        """The column document, int32 [rows]; raises DataError naming the row unless every value is
        an index below `known`."""
        column = self.column("document")
        wrong = np.flatnonzero((column < 0) | (column >= known))
        if wrong.size:
            raise DataError(
                f"document {column[wrong[0]]} is not among the {known} of the table",
                shard=self.name,
                row=int(wrong[0]),
                remedy="restore the file, or write the data set again",
            )
        return column

    def norms(self, source: str) -> FloatArray:
        """Row norms of `source`, float32 [rows]."""
        return self._file.get_tensor(norm_column(source)).numpy()

    def width(self, source: str) -> int:
        """Width of the rows of `source`."""
        return self._file.get_slice(source).get_shape()[1]

    def take(self, source: str, indices: IndexArray) -> Tensor:
        """Rows of `source` in the stored type, [len(indices), d]."""
        return self._file.get_tensor(source)[torch.as_tensor(indices)]

    def copy(self, source: str, indices: IndexArray, into_ND: Tensor) -> None:
        """Copy rows into memory of the stored type, on this thread alone: numpy starts no other,
        which would compete with a step that goes on meanwhile, and lets go of the interpreter."""
        rows_ND, into = _bits(self._file.get_tensor(source)), _bits(into_ND)
        np.take(rows_ND, indices, axis=0, out=into, mode="clip")

    def check_layout(
        self, sources: Mapping[str, int], dtype: StorageType, rows: int | None = None
    ) -> None:
        """Raise DataError unless the shard holds just these sources in `dtype`, and `rows` rows
        where that number is known."""
        names = self._file.keys()
        found = {name: self._file.get_slice(name) for name in names}
        if "document" not in found or len(found["document"].get_shape()) != 1:
            raise _layout_error(self.name, "it has no column document")
        rows = self.rows if rows is None else rows
        expected: dict[str, tuple[list[int], str]] = dict.fromkeys(COLUMNS, ([rows], "I32"))
        for source, d in sources.items():
            expected[source] = ([rows, d], _CODES[dtype])
            expected[norm_column(source)] = ([rows], "F32")
        actual = {name: (part.get_shape(), part.get_dtype()) for name, part in found.items()}
        for name in sorted(expected.keys() | actual.keys()):
            if expected.get(name) != actual.get(name):
                message = f"{name} is {actual.get(name)}, not {expected.get(name)}"
                raise _layout_error(self.name, message)


def _bits(tensor: Tensor) -> NDArray[np.generic]:
    """The tensor's memory; numpy has no bfloat16, so 16-bit numbers are taken as integers."""
    return (tensor.view(torch.int16) if tensor.element_size() == 2 else tensor).numpy()


_CODES = {dtype: code for code, dtype in STORAGE_OF_CODE.items()}


def _layout_error(name: str, message: str) -> DataError:
    return DataError(
        f"not a shard of this data set: {message}",
        shard=name,
        remedy="the file was changed or belongs to another data set; write the data set again",
    )


@contextmanager
def open_shard(folder: Path, name: str) -> Generator[Shard]:
    """Open the shard file `name` of the data set in `folder`; raises DataError."""
    with open_tensors(folder / name, name) as file:
        yield Shard(file, name)
    moved()
