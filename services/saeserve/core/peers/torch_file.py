"""Foreign .pt files: tensors and plain values only; nothing in them is run.

`torch.save` writes a pickle. It is read by torch's restricted unpickler (weights_only), which
builds tensors, containers, numbers and texts, and refuses every other name.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from saeserve.core.peers.tables import Header, TensorTable
from saeserve.core.specs.unfolding import check_directory
from saeserve.errors import FormatError

MAX_PICKLE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class TorchFile:
    """The state of a .pt file: tensors, and the plain values stored with them."""

    tensors: TensorTable
    values: Mapping[str, object]


def read_torch(path: Path, admit: Callable[[int], None]) -> TorchFile:
    """Read a dictionary of tensors and plain values; `admit` as TensorTable has it.

    Raises FormatError for pickled code, for files of torch before 1.6, and for anything damaged.
    """
    _check_archive(path)
    state = _load(path)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        _check_storage(path, name, value)
    headers = {
        name: Header(str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for name, value in tensors.items()
    }
    others = {name: value for name, value in state.items() if name not in tensors}
    return TorchFile(TensorTable(path.name, headers, tensors.__getitem__, admit), others)


def _load(path: Path) -> dict[str, object]:
    try:
        state: object = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # The unpickler raises whatever a malformed stream leads to.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise FormatError(
            f"{path.name} is refused: it holds more than tensors and plain values, or is damaged "
            f"({reason[0][:200]})",
            remedy="save the model's state_dict alone, tensors only, with torch.save",
        ) from error
    if not isinstance(state, dict):
        raise FormatError(
            f"{path.name} holds a {type(state).__name__}, not a state_dict",
            remedy="save the model's state_dict with torch.save",
        )
    named = cast("dict[object, object]", state)
    return {str(name): value for name, value in named.items()}


def _check_archive(path: Path) -> None:
    """torch's archives store members as they are, so no member can exceed the file."""
    try:
        check_directory(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise FormatError(
            f"{path.name} is not an archive of torch 1.6 or later: {error}",
            remedy="load it where it was made and save its state_dict again",
        ) from error
    for member in members:
        packed = member.compress_type != zipfile.ZIP_STORED
        if packed or (member.filename.endswith(".pkl") and member.file_size > MAX_PICKLE_BYTES):
            raise FormatError(
                f"{path.name}: {member.filename} is compressed or exceeds {MAX_PICKLE_BYTES} bytes",
                remedy="save the state_dict again with torch.save, tensors only",
            )


def _check_storage(path: Path, name: str, value: Tensor) -> None:
    """A stride of 0 makes any shape of a few bytes."""
    if value.layout != torch.strided or value.nbytes > path.stat().st_size:
        raise FormatError(
            f"{path.name}: tensor {name} has shape {list(value.shape)}, more than the file holds",
            remedy="save contiguous tensors",
        )
