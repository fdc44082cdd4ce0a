"""Reads a causal language model and its tokenizer from a local folder, and from nowhere else."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from saeserve.errors import SpecError
from saeserve.harvest.tokenizer import Tokenizer

# The libraries' own annotations of these are incomplete.
_MODELS = cast("tuple[Any, ...]", (AutoModelForCausalLM, AutoModelForImageTextToText))
_TOKENIZERS = cast("Any", AutoTokenizer)
UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
"""What transformers raises for files that are damaged, missing or of an unknown kind."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def load_tokenizer(folder: Path, gguf_file: str | None) -> Tokenizer:
    """The folder's tokenizer. Raises SpecError where there is none that can be read."""
    check_folder(folder, gguf_file)
    try:
        return Tokenizer(_TOKENIZERS.from_pretrained(str(folder), **_local(gguf_file)))
    except UNREADABLE as error:
        raise _unreadable("the tokenizer", folder, error) from error


def load_model(folder: Path, gguf_file: str | None) -> nn.Module:
    """The folder's model in float32, in evaluation mode, on the CPU.

    Raises SpecError where there is none that can be read.
    """
    check_folder(folder, gguf_file)
    options = _local(gguf_file) | {"dtype": torch.float32}
    if gguf_file is None:
        options["use_safetensors"] = True
    transformers_logging.disable_progress_bar()
    try:
        # The GGUF reader draws its bar whatever that setting says.
        with redirect_stderr(io.StringIO()):
            read = _reader(folder, gguf_file)
            model, info = read(str(folder), output_loading_info=True, **options)
    except UNREADABLE as error:
        raise _unreadable("the model", folder, error) from error
    _check_whole(folder, info)
    return cast("nn.Module", model).eval().requires_grad_(False)


def _reader(folder: Path, gguf_file: str | None) -> Callable[..., Any]:
    """What reads models of the folder's kind: language models alone or, where it is the text part
    of a model of several parts, those that read images and text."""
    config = cast("Any", AutoConfig).from_pretrained(str(folder), **_local(gguf_file))
    written_by = set(config.architectures or ())
    readers = [reader for reader in _MODELS if type(config) in reader._model_mapping]
    exact = [r for r in readers if r._model_mapping[type(config)].__name__ in written_by]
    return next(iter(exact or readers), _MODELS[0]).from_pretrained


def _check_whole(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise SpecError where weights that the model has are not in the files: they would be drawn
    at random."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise SpecError(
            "language_model.path",
            f"{folder.name} lacks {len(missing)} of the model's weights, first {missing[0]}",
            remedy="put the complete model there, of the architecture that config.json names",
        )


def check_folder(folder: Path, gguf_file: str | None) -> None:
    """Raise SpecError unless the folder holds weights that can be read without executing them."""
    if not folder.is_dir():
        raise SpecError(
            "language_model.path",
            f"{folder.name} is not a folder",
            remedy="name a folder below one of the worker's roots that holds the model",
        )
    if gguf_file is None:
        _check_safetensors(folder)
    else:
        _check_gguf(folder, gguf_file)


def _check_gguf(folder: Path, gguf_file: str) -> None:
    if Path(gguf_file).name != gguf_file or not gguf_file.endswith(".gguf"):
        raise SpecError(
            "language_model.gguf_file",
            f"{gguf_file!r} is not the name of a .gguf file",
            remedy="name a file of the folder, without a path",
        )
    if not (folder / gguf_file).is_file():
        present = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "none"
        raise SpecError(
            "language_model.gguf_file",
            f"{folder.name} holds no {gguf_file}; its GGUF files: {present}",
            remedy="correct the file's name",
        )


def _check_safetensors(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith(PICKLES)]
    if any(name.endswith(".safetensors") for name in names):
        return
    if pickles:
        raise SpecError(
            "language_model.path",
            f"{folder.name} holds pickled weights only ({pickles[0]}), which run code when read",
            remedy="convert the model to safetensors or GGUF",
        )
    remedy = "put config.json, tokenizer and *.safetensors there"
    if any(name.endswith(".gguf") for name in names):
        remedy = "set gguf_file"
    raise SpecError(
        "language_model.path", f"{folder.name} holds no safetensors weights", remedy=remedy
    )


def _local(gguf_file: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    return options if gguf_file is None else options | {"gguf_file": gguf_file}


def _unreadable(what: str, folder: Path, error: Exception) -> SpecError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SpecError(
        "language_model.path",
        f"{what} in {folder.name} cannot be read: {reason}",
        remedy="check the folder's files; only transformers' own architectures are loaded",
    )
