"""What an upload of a data set sends: files of this machine, or arrays as a file of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from saeserve.client.arrays import ArrayInput, Rows, rows_of
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.local_files import blocks, file_sha256, local_errors, path_of
from saeserve.client.refusals import bad_shape
from saeserve.client.upload_checks import check_matrices

CHUNK_BYTES = 2**20
ARRAYS_NAME = "activations.safetensors"
SOURCE = "activations"
"""What an array without a name is called in its data set, as the array of a .npy file is."""
_CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


class Payload(Protocol):
    """Bytes that are sent under a name."""

    @property
    def name(self) -> str:
        """File name within the data set."""
        ...

    @property
    def size_bytes(self) -> int:
        """How many."""
        ...

    @property
    def sha256(self) -> str:
        """Lower-case hex."""
        ...

    def read(self, offset: int) -> Iterator[bytes]:
        """The bytes from `offset` on, a chunk at a time."""
        ...


@dataclass(frozen=True)
class FilePayload:
    """Sent as its bytes are on disk; `sha256` is lower-case hex."""

    path: Path
    name: str
    size_bytes: int
    sha256: str

    def read(self, offset: int) -> Iterator[bytes]:
        """Open the file, so that an upload can go on where it broke off."""
        with self.path.open("rb") as stream:
            stream.seek(offset)
            yield from blocks(stream)


@dataclass(frozen=True)
class ArraysPayload:
    """Matrices of one number of rows, in safetensors' format; they are not copied."""

    parts: tuple[memoryview, ...]
    name: str
    size_bytes: int
    sha256: str

    def read(self, offset: int) -> Iterator[bytes]:
        """Yield at most CHUNK_BYTES at a time."""
        for part in self.parts:
            for start in range(min(offset, part.nbytes), part.nbytes, CHUNK_BYTES):
                yield bytes(part[start : start + CHUNK_BYTES])
            offset = max(0, offset - part.nbytes)


DataInput = ArrayInput | Sequence[str | Path] | Mapping[str, ArrayInput]
"""Arrays or tensors [rows, d], alone or by their source's name, and paths, one or several."""


def payloads(data: DataInput, name: str, tensors: Sequence[str]) -> Sequence[Payload]:
    """What `data` sends. Raises InvalidArgumentError for what no data set could be made of."""
    paths = _paths(data)
    if paths is not None:
        if name:
            raise _wrong("files keep the names that they have", "name", "leave the name out")
        check_matrices(paths, tensors)
        return [_of_file(path) for path in paths]
    given = cast("Mapping[str, ArrayInput]", data if isinstance(data, Mapping) else {SOURCE: data})
    return [_of_arrays(given, name or ARRAYS_NAME)]


def _paths(data: object) -> list[Path] | None:
    """The paths that were given, or None for arrays."""
    alone = path_of(data)
    if alone is not None:
        return [alone]
    if isinstance(data, list | tuple):
        found = [path_of(each) for each in cast("Sequence[object]", data)]
        paths = [each for each in found if each is not None]
        return paths if paths and len(paths) == len(found) else None
    return None


def _of_file(path: Path) -> FilePayload:
    with local_errors(f"{path} cannot be read"):
        return FilePayload(path, path.name, path.stat().st_size, file_sha256(path))


def _of_arrays(given: Mapping[str, ArrayInput], name: str) -> ArraysPayload:
    if not name.endswith(".safetensors"):
        raise _wrong(f"arrays are not sent as {name}", "name", "end the name in .safetensors")
    matrices = {source: _matrix(source, value) for source, value in given.items()}
    if len({rows.shape[0] for rows in matrices.values()}) != 1:
        listed = ", ".join(f"{source}: {rows.rows}" for source, rows in matrices.items())
        raise _wrong(f"the arrays differ in rows ({listed})", "data", "pair row with row")
    header: dict[str, Any] = {}
    parts: list[memoryview] = []
    end = 0
    for source, rows in sorted(matrices.items()):
        data = memoryview(cast(Any, rows.data.reshape(-1).view(np.uint8)))
        header[source] = {
            "dtype": _CODES[rows.dtype],
            "shape": list(rows.shape),
            "data_offsets": [end, end + data.nbytes],
        }
        end += data.nbytes
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts.insert(0, memoryview(len(text).to_bytes(8, "little") + text))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    size = sum(part.nbytes for part in parts)
    return ArraysPayload(tuple(parts), name, size, digest.hexdigest())


def _matrix(source: str, value: ArrayInput) -> Rows:
    """[rows, d] of finite values in row-major order; float64 becomes float32."""
    rows = rows_of(value, source)
    if len(rows.shape) != 2 or not rows.data.size:
        what = f"{source} has shape {list(rows.shape)}; a matrix [rows, d] is needed"
        raise bad_shape(what, field="data", remedy="reshape it to [rows, d]")
    rows.refuse_not_finite()
    if rows.dtype == "float64":
        rows = Rows(rows.float32(), name=source)
    little = rows.data.dtype.newbyteorder("<")
    return Rows(np.ascontiguousarray(rows.data, little), rows.bfloat16, source)


def _wrong(message: str, field: str, remedy: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, reason="BAD_DATA", field=field, remedy=remedy)
