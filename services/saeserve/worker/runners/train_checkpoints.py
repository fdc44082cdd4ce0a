"""What a training job keeps in its checkpoints in addition to the trainer's own files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from saeserve.core.data.preprocess import Preprocessing, SideBySide, mean_of
from saeserve.core.training.checkpoint import HEADER_FILE
from saeserve.core.training.trainer import CheckpointSink
from saeserve.errors import CheckpointError

_PREPROCESSING = "preprocessing.safetensors"


def recorded_threads(folder: Path) -> int:
    """Threads that the checkpoint was written with: the same number gives the same bits.

    Members of a sweep, each in a folder of its own, were all written by one process.
    """
    try:
        header = next(folder.rglob(HEADER_FILE))
        return int(json.loads(header.read_bytes())["environment"]["threads"])
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise _damaged(folder, HEADER_FILE) from error


def load_preprocessing(folder: Path) -> SideBySide:
    """What was fitted before the first step, so that a resumed run need not read all rows again."""
    try:
        tensors = safetensors.torch.load((folder / _PREPROCESSING).read_bytes())
        scales = tensors["scale"].reshape(-1)
        # A checkpoint of one source tells no widths.
        widths = tensors.get("widths", torch.tensor([tensors["mean"].numel()]))
        means = tensors["mean"].split_with_sizes([int(width) for width in widths])
        parts = zip(means, scales, strict=True)
        return SideBySide(tuple(Preprocessing(mean, float(scale)) for mean, scale in parts))
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, _PREPROCESSING) from error


@dataclass(frozen=True)
class CompleteSink:
    """Adds the preprocessing to every checkpoint that passes through."""

    inner: CheckpointSink
    preprocessing: SideBySide

    def commit(self, step: int, write: Callable[[Path], None]) -> int:
        """Write and commit the checkpoint of `step`; returns its size in bytes."""
        return self.inner.commit(step, lambda folder: self._write(folder, write))

    def _write(self, folder: Path, write: Callable[[Path], None]) -> None:
        write(folder)
        (folder / _PREPROCESSING).write_bytes(safetensors.torch.save(_tensors(self.preprocessing)))


def _tensors(preprocessing: SideBySide) -> dict[str, Tensor]:
    parts = preprocessing.parts
    return {
        "mean": mean_of(preprocessing).cpu().contiguous(),
        "scale": torch.tensor([part.scale for part in parts], dtype=torch.float64),
        "widths": torch.tensor([part.mean_D.numel() for part in parts]),
    }


def _damaged(folder: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {folder.name}: {name} cannot be read",
        remedy="submit the job again; the data set and the spec are unchanged",
    )
