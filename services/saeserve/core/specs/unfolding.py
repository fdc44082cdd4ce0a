"""What files of foreign models will take once they are read, by what they declare.

Compressed archives unfold to far more than their size, so sizes are looked at before the bytes.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, cast

from saeserve.errors import FormatError

IMPORT_BYTES_A_VALUE = 16
"""A parameter as it is read and as it is kept (float32), and while it is folded (float64). Measured
with Gemma Scope's format: 14."""
MAX_DIRECTORY_BYTES = 2**20
"""Maximum size of an archive's list of members, which is read whole; models have few."""
_ARCHIVES = (".npz", ".pt", ".pth")
_FLOAT32 = 4
_END = struct.Struct("<4s4H2LH")
_MOST_COMMENT = 2**16
_MAX_HEADER_BYTES = 4 * 2**20


def declared_values(path: Path) -> int:
    """How many numbers a model's file declares; 0 for other files.

    By float32 where the headers are the job's to read. Raises FormatError for an archive that
    cannot be, OSError.
    """
    if path.suffix in _ARCHIVES:
        return sum(member.file_size for member in archive_members(path)) // _FLOAT32
    if path.suffix == ".npy":
        return path.stat().st_size // _FLOAT32
    return _safetensors_values(path) if path.suffix == ".safetensors" else 0


def archive_members(path: Path) -> list[zipfile.ZipInfo]:
    """Members of a zip archive, with the sizes that they unfold to; no member is read.

    Raises FormatError for what is not an archive or lists more members than a model has.
    """
    try:
        check_directory(path)
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise FormatError(
            f"{path.name} is not an archive: {error}", remedy="copy the file again"
        ) from error


def check_directory(path: Path) -> None:
    """Raise FormatError for a zip archive whose list of members would fill the memory."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END.size - _MOST_COMMENT))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        return  # no archive, as its reader will say
    directory = int(_END.unpack_from(tail, at)[5])
    if directory > MAX_DIRECTORY_BYTES:
        raise FormatError(
            f"{path.name} lists members in {directory} bytes; at most {MAX_DIRECTORY_BYTES} are "
            "read",
            remedy="store the tensors of one model, and nothing else",
        )


def _safetensors_values(path: Path) -> int:
    """A file whose header cannot be read counts as float32: its job says what is wrong."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else _MAX_HEADER_BYTES + 1
        text = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        header = cast("Mapping[str, Mapping[str, Any]]", json.loads(text))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return min(sum(int(prod(shape)) for shape in shapes), size)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return size // _FLOAT32
