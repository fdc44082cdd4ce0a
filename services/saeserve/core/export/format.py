"""The files of an exported model: `config.json` and `model.safetensors` in one folder.

`config.json` is written last, so a folder that has one is whole. All tensors are float32, with the
names and shapes of InferenceModel; anything else is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import (
    save_file,  # pyright: ignore[reportUnknownVariableType] - it leaves PathLike's argument open
)
from torch import Tensor

from saeserve.core.data.tensor_file import TensorFile, open_tensors
from saeserve.core.disk import is_disk_full, no_space
from saeserve.core.durable import held, make_folders, sync, temporary_beside
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import CONFIG_FILE, TENSOR_FILE, ModelConfig
from saeserve.errors import DataError, FormatError

MAX_CONFIG_BYTES = 16 * 2**20
_DAMAGED = "restore the file, or export the model again"


def save_model(model: InferenceModel, folder: Path) -> None:
    """Write the model durably into `folder`, which is made when it does not exist.

    Each file appears whole or not at all. Raises FormatError for tensors that `load_model` would
    refuse, NoSpaceError when the disk is full.
    """
    tensors = {name: value.contiguous().cpu() for name, value in model.tensors.items()}
    _check_names(set(tensors), model.config)
    for name, value in tensors.items():
        _check_header(name, str(value.dtype), tuple(value.shape), model.config)
        _check_values(name, value)
    make_folders(folder)
    _commit(folder / TENSOR_FILE, lambda path: save_file(tensors, path))
    _commit(folder / CONFIG_FILE, lambda path: _write_bytes(path, model.config.to_bytes()))
    sync(folder)


def load_model(folder: Path) -> InferenceModel:
    """Read a model onto the CPU.

    Raises FormatError, naming file and tensor, for another format version and for anything that
    is missing, damaged, cut short, of another type or shape, or not finite.
    """
    return read_tensors(folder / TENSOR_FILE, read_config(folder / CONFIG_FILE))


def read_tensors(path: Path, config: ModelConfig) -> InferenceModel:
    """The model of a config that was read before. Raises FormatError as `load_model` does."""
    try:
        with open_tensors(path, TENSOR_FILE) as file:
            tensors = _read_tensors(file, config)
    except (DataError, SafetensorError) as error:
        raise FormatError(str(error), remedy=_DAMAGED) from error
    threshold = tensors.pop("threshold", None)
    return InferenceModel(config=config, threshold=threshold, **tensors)


def read_config(path: Path) -> ModelConfig:
    """The file `config.json` alone. Raises FormatError as `load_model` does."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError as error:
        raise FormatError(
            f"{CONFIG_FILE} is missing in {path.parent.name}", remedy=_DAMAGED
        ) from error
    if len(data) > MAX_CONFIG_BYTES:
        raise FormatError(f"{CONFIG_FILE} exceeds {MAX_CONFIG_BYTES} bytes", remedy=_DAMAGED)
    return ModelConfig.from_bytes(data)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of this config has."""
    d_in, d_out, d_sae = config.d_in, config.d_out, config.d_sae
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (d_in, d_sae),
        "b_enc": (d_sae,),
        "W_dec": (d_sae, d_out),
        "b_dec": (d_out,),
        "centre": (d_in,),
        "frequency": (d_sae,),
        "maximum": (d_sae,),
    }
    if config.activation.kind == "threshold":
        shapes["threshold"] = (d_sae,)
    if config.selecting is not None and config.selecting.weighted:
        shapes["selection"] = (d_sae,)
    if config.skip_connection:
        shapes["W_skip"] = (d_out, d_in)
    return shapes


def _read_tensors(file: TensorFile, config: ModelConfig) -> dict[str, Tensor]:
    """Headers of all tensors are checked before the first byte of data is read."""
    names = set(file.keys())
    _check_names(names, config)
    for name in names:
        header = file.get_slice(name)
        code = header.get_dtype()
        dtype = "torch.float32" if code == "F32" else code
        _check_header(name, dtype, tuple(header.get_shape()), config)
    tensors = {name: file.get_tensor(name) for name in names}
    for name, value in tensors.items():
        _check_values(name, value)
    return tensors


def _check_names(names: set[str], config: ModelConfig) -> None:
    expected = set(tensor_shapes(config))
    for name in sorted(expected - names):
        raise FormatError(f"tensor {name} is missing", remedy=_DAMAGED)
    for name in sorted(names - expected):
        raise FormatError(
            f"tensor {name} does not belong to a {config.activation.kind} model", remedy=_DAMAGED
        )


def _check_header(name: str, dtype: str, shape: tuple[int, ...], config: ModelConfig) -> None:
    expected = tensor_shapes(config)[name]
    if shape != expected:
        raise FormatError(
            f"tensor {name} has shape {list(shape)}, expected {list(expected)}", remedy=_DAMAGED
        )
    if dtype != "torch.float32":
        raise FormatError(f"tensor {name} is {dtype}, expected float32", remedy=_DAMAGED)


def _check_values(name: str, value: Tensor) -> None:
    """Thresholds may be infinite (dead), never negative: negative ones would let h <= 0 fire."""
    if name == "threshold":
        if not bool((value >= 0).all()):
            raise FormatError("tensor threshold holds NaN or negative values", remedy=_DAMAGED)
    elif not bool(torch.isfinite(value).all()):
        raise FormatError(f"tensor {name} holds NaN or infinite values", remedy=_DAMAGED)
    elif name == "selection" and bool((value < 0).any()):
        raise FormatError("tensor selection holds negative values", remedy=_DAMAGED)


def _commit(path: Path, write: Callable[[Path], None]) -> None:
    """Write next to `path`, sync, rename: readers see the whole file or none."""
    staged = temporary_beside(path)
    try:
        staged.touch(exist_ok=False)
        with held(staged):
            write(staged)
            sync(staged)
            os.replace(staged, path)
    except (OSError, SafetensorError) as error:
        if is_disk_full(error):
            raise no_space(path.parent.name) from error
        raise
    finally:
        staged.unlink(missing_ok=True)


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)
