"""What an exporter makes, and how it becomes a folder: whole, or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import (
    save_file,  # pyright: ignore[reportUnknownVariableType] - it leaves PathLike's argument open
)
from torch import Tensor

from saeserve.core.disk import is_disk_full, no_space
from saeserve.core.durable import held, make_folders, sync, temporary_beside
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import TopKActivation
from saeserve.errors import DataError, FormatError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Payload:
    """Files by their name; tensors go to safetensors, or to a .pt of plain tensors."""

    configs: Mapping[str, Mapping[str, object]]
    tensors: Mapping[str, Tensors]
    state_dicts: Mapping[str, Tensors] = field(default_factory=dict[str, Tensors])


def write(payload: Payload, folder: Path) -> None:
    """Make `folder`, with everything in it, by one rename.

    Raises DataError when it exists already, NoSpaceError when the disk is full.
    """
    if folder.exists():
        raise DataError(f"{folder.name} exists already", remedy="choose another folder")
    staged = temporary_beside(folder)
    try:
        make_folders(folder.parent)
        staged.mkdir()
        with held(staged):
            _fill(payload, staged)
            staged.rename(folder)
            sync(folder.parent)
    except (OSError, SafetensorError) as error:
        if is_disk_full(error):
            raise no_space(folder.parent.name) from error
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _fill(payload: Payload, folder: Path) -> None:
    for name, config in payload.configs.items():
        text = json.dumps(config, indent=1, sort_keys=True, allow_nan=False)
        (folder / name).write_text(text + "\n")
    for name, tensors in payload.tensors.items():
        save_file(_plain(tensors), folder / name)
    for name, tensors in payload.state_dicts.items():
        torch.save(_plain(tensors), folder / name)
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def _plain(tensors: Tensors) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def cannot(format: str, what: str, remedy: str = "") -> FormatError:
    """The error for a property that a format has no place for."""
    other = remedy or "export it in another format, or use it through saeserve"
    return FormatError(f"the {format} format cannot hold this model: {what}", remedy=other)


def check_single_source(model: InferenceModel, format: str) -> None:
    """Raise FormatError for a model of several inputs or outputs: a crosscoder, mostly."""
    model.config.check_single_source(format)


def unweighted(model: InferenceModel) -> InferenceModel:
    """The same function with weights that need no `selection`: a feature's unit changes with it.

    Decoder rows do not have unit norm then, as in the library that such a model was imported from.
    """
    if model.selection is None:
        return model
    weight_F = model.selection
    return dataclasses.replace(
        model,
        W_enc=model.W_enc * weight_F,
        b_enc=model.b_enc * weight_F,
        W_dec=model.W_dec / weight_F[:, None],
        selection=None,
    )


def relu_top_k(model: InferenceModel, format: str) -> int:
    """k of a top-k activation with ReLU. Raises FormatError for another `post`."""
    activation = model.config.activation
    if not isinstance(activation, TopKActivation):
        raise cannot(format, f"activation is {activation.kind!r}")
    if activation.post != "relu":
        raise cannot(format, f"activation.post is {activation.post!r}, not 'relu'")
    return activation.k


def bias_before_subtraction(model: InferenceModel) -> Tensor:
    """b_enc for libraries that subtract b_dec from the input first: b_enc + b_dec W_enc, [F]."""
    shift_F = model.b_dec.double() @ model.W_enc.double()
    return (model.b_enc.double() + shift_F).float()
