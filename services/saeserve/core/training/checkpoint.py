"""Checkpoints: `state.safetensors` and `checkpoint.json` in a folder; bit-exact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError

# safetensors leaves the parameter of PathLike open.
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

from saeserve.core.architectures.contract import Dimensions, Tensors
from saeserve.core.disk import space_needed
from saeserve.core.specs.base import Spec
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.environment import Environment
from saeserve.core.training.state import TrainerState
from saeserve.errors import CheckpointError, DataMismatchError, SpecError

FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)
"""Format 1 does not say which data the run was trained on, and has one counter for the tokens since
a latent fired or was resampled."""
TENSORS_FILE = "state.safetensors"
HEADER_FILE = "checkpoint.json"


class TensorEntry(Spec):
    """Type and shape of one tensor of the file."""

    dtype: str
    shape: tuple[int, ...]


class Header(Spec):
    """The JSON that is stored with the tensors."""

    format_version: int
    spec: TrainSpec
    d_in: int
    d_out: int
    step: int
    tokens: int
    data_sha256: str = ""
    """SHA-256 of the data set's manifest; empty where the rows come from no data set."""
    environment: Environment
    tensors: dict[str, TensorEntry]


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns: the state, and where it was made."""

    state: TrainerState
    environment: Environment


def save(
    folder: Path, state: TrainerState, spec: TrainSpec, dims: Dimensions, data_sha256: str = ""
) -> None:
    """Write `state` into the empty `folder`; committing it is the caller's."""
    header = header_of(state, spec, dims, data_sha256)
    write(folder, {name: value.detach().cpu() for name, value in state.tensors().items()}, header)


def header_of(
    state: TrainerState, spec: TrainSpec, dims: Dimensions, data_sha256: str = ""
) -> Header:
    """What a checkpoint of `state` says of it; nothing is read from a device."""
    return Header(
        format_version=FORMAT_VERSION,
        spec=spec,
        d_in=dims.d_in,
        d_out=dims.d_out,
        step=state.step,
        tokens=state.tokens,
        data_sha256=data_sha256,
        environment=Environment.of(spec, state.tokens_since_fired_F.device),
        tensors=_entries(state.tensors()),
    )


def write(folder: Path, tensors: Tensors, header: Header) -> None:
    """Write the tensors of a state, which are on the CPU, and its header."""
    with space_needed(folder):
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / TENSORS_FILE)
    text = json.dumps(header.to_json(), indent=1, sort_keys=True)
    (folder / HEADER_FILE).write_text(text, encoding="utf-8")


def load(
    folder: Path,
    spec: TrainSpec,
    dims: Dimensions,
    device: torch.device,
    data_sha256: str = "",
) -> Checkpoint:
    """Read what `save` wrote, onto `device`.

    Raises CheckpointError for files that are missing or damaged, for a format that this release
    does not read, and for a checkpoint of another spec or of data of another width;
    DataMismatchError for a run that was begun on a data set with another manifest.
    """
    header = _read_header(folder)
    _check_data(header, spec.dataset, data_sha256)
    if header.spec != spec:
        raise _error(folder, f"belongs to another spec: {_difference(header.spec, spec)}")
    if (header.d_in, header.d_out) != (dims.d_in, dims.d_out):
        was, now = (header.d_in, header.d_out), (dims.d_in, dims.d_out)
        raise _error(folder, f"(d_in, d_out) was {was} and the data now has {now}")
    tensors = _read_tensors(folder, header)
    if header.format_version == 1:
        tensors = _with_both_counters(tensors)
    moved = {name: value.to(device, copy=True) for name, value in tensors.items()}
    try:
        state = TrainerState.from_tensors(moved, header.step, header.tokens)
    except KeyError as error:
        raise _error(folder, f"holds no {error.args[0]}") from error
    return Checkpoint(state, header.environment)


def _read_header(folder: Path) -> Header:
    path = folder / HEADER_FILE
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _error(folder, f"{HEADER_FILE} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise _error(folder, f"{HEADER_FILE} is not a JSON object")
    fields = cast(dict[str, Any], value)
    version = fields.get("format_version")
    if version not in READ_VERSIONS:
        known = " and ".join(map(str, READ_VERSIONS))
        raise _error(folder, f"has format {version!r}; this release reads {known}")
    try:
        return Header.parse(fields, HEADER_FILE)
    except SpecError as error:
        raise _error(folder, error.message) from error


def _check_data(header: Header, dataset: str, sha256: str) -> None:
    """One run must not be trained on two data sets that followed each other under one name."""
    if header.data_sha256 and sha256 and header.data_sha256 != sha256:
        raise DataMismatchError(
            f"the run was begun on another data set {dataset}: at step {header.step} the sha256 of "
            f"its manifest was {header.data_sha256}, now it is {sha256}",
            remedy="submit the job again to train on the data set as it is now",
        )


def _read_tensors(folder: Path, header: Header) -> Tensors:
    try:
        tensors = load_file(folder / TENSORS_FILE)
    except (OSError, SafetensorError) as error:
        raise _error(folder, f"{TENSORS_FILE} cannot be read: {error}") from error
    found = _entries(tensors)
    wrong = {name for name in found | header.tensors if found.get(name) != header.tensors.get(name)}
    if wrong:
        raise _error(folder, f"{TENSORS_FILE} and {HEADER_FILE} differ in {sorted(wrong)}")
    return tensors


def _with_both_counters(tensors: Tensors) -> Tensors:
    """What format 1 kept as one counter stands for both."""
    one, other = "counters.tokens_since_fired", "counters.tokens_since_fired_or_resampled"
    return {**tensors, other: tensors[one]} if one in tensors else tensors


def _entries(tensors: Tensors) -> dict[str, TensorEntry]:
    return {
        name: TensorEntry(dtype=str(value.dtype).removeprefix("torch."), shape=tuple(value.shape))
        for name, value in tensors.items()
    }


def _difference(was: TrainSpec, now: TrainSpec) -> str:
    before, after = was.to_json(), now.to_json()
    names = sorted(key for key in before | after if before.get(key) != after.get(key))
    return ", ".join(f"{key} was {before.get(key)} and is {after.get(key)}" for key in names)


def _error(folder: Path, message: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {folder.name}: {message}",
        remedy="resume from an older checkpoint, or start again",
    )
