"""Foreign numpy files: .npy and .npz, without pickles, sizes checked before bytes are read."""

from __future__ import annotations

import ast
import struct
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from saeserve.core.peers.tables import Header, TensorTable
from saeserve.core.specs.unfolding import check_directory
from saeserve.errors import FormatError

MAX_HEADER_BYTES = 10_000
"""Longest header that is read, as in numpy's own reader."""
_MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    RecursionError,
    MemoryError,
    struct.error,
)
_BFLOAT16 = np.dtype("V2")
"""What numpy takes bfloat16 for."""
_AGAIN = "write it again with numpy.save or numpy.savez, plain floating-point arrays only"


@contextmanager
def open_npz(path: Path, admit: Callable[[int], None]) -> Generator[TensorTable]:
    """Open a .npz, with `admit` as TensorTable has it; arrays are read one by one inside the block.

    Raises FormatError for another file, for arrays of objects (which numpy stores as pickles) and
    for headers that do not fit their data.
    """
    try:
        check_directory(path)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            headers = {name: _member_header(archive, info) for name, info in members.items()}
            yield TensorTable(
                path.name, headers, lambda name: _read_member(archive, members[name]), admit
            )
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise FormatError(f"{path.name} is not an .npz file: {error}", remedy=_AGAIN) from error


def read_npy(path: Path) -> Tensor:
    """A matrix [rows, d] of finite floating-point numbers, as float64.

    Raises FormatError for anything else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = _header(file, path.name, size)
        if len(header.shape) != 2 or 0 in header.shape:
            raise _bad(path.name, f"has shape {list(header.shape)}, expected [rows, d]")
        if not header.dtype.startswith(("float", "bfloat16")):
            raise _bad(path.name, f"holds {header.dtype}, not floating point")
        file.seek(0)
        values = _read(file)
    if not bool(torch.isfinite(values).all()):
        raise _bad(path.name, "holds NaN or infinite values")
    return values.double()


def _member_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    with archive.open(info) as file:
        return _header(file, info.filename, info.file_size)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    with archive.open(info) as file:
        return _read(file)


def _read(file: IO[bytes]) -> Tensor:
    values = npy.read_array(file, allow_pickle=False)
    if values.dtype == _BFLOAT16:
        bits = np.ascontiguousarray(values).view("<i2").astype(np.int16, copy=False)
        return torch.from_numpy(bits).view(torch.bfloat16)  # pyright: ignore[reportUnknownMemberType] - as below
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(values.shape))  # pyright: ignore[reportUnknownMemberType] - torch leaves the argument untyped


def _header(file: IO[bytes], name: str, size: int) -> Header:
    """Read a header; what follows it must be exactly as long as it says."""
    try:
        length = _header_length(file, name)
        shape, dtype, descr = _parse(file, length)
    except _MALFORMED as error:
        raise _bad(name, f"has no numpy header: {error}") from error
    if dtype.hasobject:
        raise _bad(name, "holds Python objects, which are pickled code")
    count = 1
    for axis in shape:
        count *= axis
    if file.tell() + count * dtype.itemsize != size:
        raise _bad(name, f"says {list(shape)} of {dtype}, but has {size} bytes in all")
    # So numpy.save writes an array of ml_dtypes' bfloat16, which numpy does not know.
    return Header("bfloat16" if descr == "<V2" else dtype.name, shape)


def _header_length(file: IO[bytes], name: str) -> int:
    version = npy.read_magic(file)
    width, code = (2, "<H") if version == (1, 0) else (4, "<I")
    length = int(struct.unpack(code, file.read(width))[0])
    if length > MAX_HEADER_BYTES:
        raise _bad(name, f"claims a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
    return length


def _parse(file: IO[bytes], length: int) -> tuple[tuple[int, ...], np.dtype[Any], object]:
    fields = ast.literal_eval(file.read(length).decode("latin1"))
    shape = tuple(int(axis) for axis in fields["shape"])
    if any(axis < 0 for axis in shape):
        raise ValueError("a negative length")
    return shape, np.dtype(fields["descr"]), fields["descr"]


def _bad(name: str, what: str) -> FormatError:
    return FormatError(f"{name} {what}", remedy=_AGAIN)
