"""A typed view of safetensors' lazy, memory-mapped files."""

from __future__ import annotations

import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saeserve.core.specs.jobs import StorageType
from saeserve.errors import DataError

MAX_HEADER_BYTES = 4 * 2**20
"""Far above what named matrices need; a forged header must not fill the memory."""

STORAGE: dict[StorageType, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
STORAGE_OF_CODE: dict[str, StorageType] = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


class TensorSlice(Protocol):
    """One tensor of a file, read only where it is indexed."""

    def get_shape(self) -> list[int]:
        """Sizes of all dimensions, from the header."""
        ...

    def get_dtype(self) -> str:
        """Its safetensors type code, e.g. F16."""
        ...

    def __getitem__(self, rows: slice) -> Tensor:
        """Read along the first dimension; nothing else is loaded."""
        ...


class TensorFile(Protocol):
    """An open safetensors file."""

    def keys(self) -> list[str]:
        """Names of its tensors."""
        ...

    def get_slice(self, name: str) -> TensorSlice:
        """A lazily read tensor."""
        ...

    def get_tensor(self, name: str) -> Tensor:
        """A tensor over the mapped file; pages are read when touched."""
        ...


@contextmanager
def open_tensors(path: Path, name: str) -> Generator[TensorFile]:
    """Open a safetensors file, called `name` in errors.

    Raises DataError where it is missing, cut short or no safetensors file.
    """
    try:
        _check_header(path, name)
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"cannot be read as safetensors: {error}",
            shard=name,
            remedy="write the file again; it may have been cut short",
        ) from error
    with opened:
        yield cast("TensorFile", opened)


def _check_header(path: Path, name: str) -> None:
    with path.open("rb") as file:
        head = file.read(8)
    size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if size > MAX_HEADER_BYTES:
        raise DataError(
            f"its safetensors header claims {size} bytes; at most {MAX_HEADER_BYTES} are read",
            shard=name,
            remedy="store fewer tensors or less metadata in a file",
        )
