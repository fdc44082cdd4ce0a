"""Headers of this machine's .npy and .safetensors files: type and shape before a byte is sent."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from saeserve.client.arrays import ArrayInput, Rows, rows_of
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.local_files import local_errors, path_of
from saeserve.client.refusals import bad_type, no_local_file

MAX_NPY_HEADER = 10_000
MAX_SAFETENSORS_HEADER = 4 * 2**20
SUFFIXES = (".npy", ".safetensors")
_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK\x03\x04"
_AS_TENSORS = (
    "it may run code when read: torch.load it where you trust it, and write the tensor with "
    "safetensors.torch.save_file"
)
_REMEDIES = {
    ".npz": "save the one array with numpy.save, or several with safetensors.numpy.save_file",
    ".pt": _AS_TENSORS,
    ".pth": _AS_TENSORS,
    ".bin": _AS_TENSORS,
    ".pkl": "it may run code when read: save the array with numpy.save",
}
"""For files that other programs write rows to."""
# What a malformed header raises depends on where the parser gives up on it.
_MALFORMED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    SyntaxError,
    TokenError,
    RecursionError,
)
_NUMPY_TYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
ACCEPTED = "float16, bfloat16, float32 and float64"


@dataclass(frozen=True)
class StoredArray:
    """One array of a file. `dtype` is numpy's name, or the file's for a type that is not accepted;
    the bits of bfloat16 are of uint16."""

    file: Path
    tensor: str
    """Its name in a .safetensors file; empty for .npy."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | str
    offset: int
    bfloat16: bool = False
    fortran: bool = False

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.file.name}, tensor {self.tensor}" if self.tensor else self.file.name

    def rows(self) -> Rows:
        """The array, mapped rather than read."""
        if not math.prod(self.shape):
            return Rows(np.zeros(self.shape, self.dtype), self.bfloat16, self.name)
        mapped: npt.NDArray[Any] = np.memmap(
            self.file,
            dtype=self.dtype,
            mode="r",
            offset=self.offset,
            shape=self.shape,
            order="F" if self.fortran else "C",
        )
        return Rows(mapped, self.bfloat16, self.name)


def read_rows(value: ArrayInput, name: str = "activations") -> Rows:
    """Read what a user passed, [..., d]: as rows_of does, and the paths of files with one array.

    Raises InvalidArgumentError for what cannot be read, PreconditionError for the disk's errors.
    """
    path = path_of(value)
    if path is None:
        return rows_of(value, name)
    arrays = stored_arrays(path)
    if len(arrays) > 1:
        raise bad_file(
            path,
            f"holds {len(arrays)} tensors: {', '.join(each.tensor for each in arrays)}",
            "store the one to send in a file of its own, or load it and pass the array",
        )
    check_type(arrays[0])
    return arrays[0].rows()


def stored_arrays(path: Path, suffix: str = "") -> list[StoredArray]:
    """The arrays of a file, by their header; `suffix` says what it is in place of its own.

    Raises InvalidArgumentError for another file.
    """
    check_file(path)
    suffix = suffix or path.suffix
    if suffix not in SUFFIXES:
        remedy = _REMEDIES.get(suffix, "convert it to one of these")
        raise bad_file(path, "is neither .npy nor .safetensors", remedy)
    with local_errors(f"{path} cannot be read"):
        _check_kind(path, suffix)
        try:
            return _npy(path) if suffix == ".npy" else _safetensors(path)
        except _MALFORMED as error:
            raise bad_file(
                path,
                f"cannot be read as {suffix}: {error}",
                "write it again; it was cut short, or is of another format",
            ) from error


def check_type(array: StoredArray) -> None:
    """Raise InvalidArgumentError unless the values are of a type that is accepted."""
    if isinstance(array.dtype, str):
        raise bad_type(
            f"{array.name} is of type {array.dtype}; accepted are {ACCEPTED}",
            field="file",
            remedy="convert it to float32",
        )


def _check_kind(path: Path, suffix: str) -> None:
    """Raise InvalidArgumentError for what is certainly no such file, whatever it is called."""
    with path.open("rb") as file:
        begin = file.read(len(_NPY_MAGIC))
    if not begin:
        raise bad_file(path, "is empty", "write the file again")
    if begin.startswith(_ZIP_MAGIC):
        what = "is an archive (.npz, or a pickle of torch), not one array"
        raise bad_file(path, what, _REMEDIES[".npz"])
    if suffix == ".npy" and begin != _NPY_MAGIC:
        what = f"is not a .npy file: its first bytes are {begin!r}"
        raise bad_file(path, what, "save the array with numpy.save")


def _npy(path: Path) -> list[StoredArray]:
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_NPY_HEADER))
    version = np.lib.format.read_magic(head)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version} of the format holds no plain array")
    shape, fortran, dtype = readers[version](head)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are pickled code")
    # Written by numpy.save of an array of ml_dtypes' bfloat16, for which numpy has no name.
    bfloat16 = b"'<V2'" in head.getvalue()[: head.tell()]
    known = bfloat16 or (dtype.kind == "f" and dtype.itemsize <= 8)
    stored = np.dtype("<u2") if bfloat16 else dtype
    _check_size(path, head.tell() + math.prod(shape) * dtype.itemsize)
    kind = stored if known else dtype.name
    return [StoredArray(path, "", shape, kind, head.tell(), bfloat16, fortran)]


def _safetensors(path: Path) -> list[StoredArray]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_SAFETENSORS_HEADER:
            raise ValueError(f"its header claims {length} bytes")
        header = cast("dict[str, dict[str, Any]]", json.loads(file.read(length)))
    header.pop("__metadata__", None)
    if not header:
        raise ValueError("it holds no tensors")
    arrays = [_tensor(path, name, entry, 8 + length) for name, entry in sorted(header.items())]
    _check_size(path, 8 + length + max(int(each["data_offsets"][1]) for each in header.values()))
    return arrays


def _tensor(path: Path, name: str, entry: dict[str, Any], begin: int) -> StoredArray:
    code, shape = str(entry["dtype"]), tuple(int(axis) for axis in entry["shape"])
    start, stop = (int(place) for place in entry["data_offsets"])
    dtype = np.dtype(_NUMPY_TYPES[code]) if code in _NUMPY_TYPES else code
    if isinstance(dtype, np.dtype) and stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {name} of shape {list(shape)} has {stop - start} bytes")
    return StoredArray(path, name, shape, dtype, begin + start, code == "BF16")


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size
    if found != expected:
        raise ValueError(f"it has {found} bytes where its header makes {expected}")


def check_file(path: Path, wanted: str = "a .npy or .safetensors file") -> None:
    """Raise InvalidArgumentError unless there is a file, which should be `wanted`."""
    if not path.is_file():
        raise no_local_file(
            f"{path} is a folder" if path.is_dir() else f"there is no {path} on this machine",
            field="file",
            remedy=f"name {wanted}",
        )


def bad_file(path: Path, what: str, remedy: str) -> InvalidArgumentError:
    """The refusal of one of this machine's files."""
    return InvalidArgumentError(
        f"{path.name} {what}", reason="BAD_FILE", field="file", remedy=remedy
    )
