"""What a training job keeps in its checkpoints beside the trainer's own files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.errors import CheckpointError
from saeserve.core.training.checkpoint import HEADER_FILE
from saeserve.core.training.trainer import CheckpointSink

_PREPROCESSING = "preprocessing.safetensors"


def recorded_threads(folder: Path) -> int:
    """Threads that the checkpoint was written with: the same number gives the same bits."""
    try:
        return int(json.loads((folder / HEADER_FILE).read_bytes())["environment"]["threads"])
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(folder, HEADER_FILE) from error


def load_preprocessing(folder: Path) -> Preprocessing:
    """What was fitted before the first step, so that a resumed run need not read all rows again."""
    try:
        tensors = safetensors.torch.load((folder / _PREPROCESSING).read_bytes())
        return Preprocessing(mean_D=tensors["mean"], scale=float(tensors["scale"]))
    except (OSError, KeyError, SafetensorError) as error:
        raise _damaged(folder, _PREPROCESSING) from error


@dataclass(frozen=True)
class CompleteSink:
    """Adds the preprocessing to every checkpoint that passes through."""

    inner: CheckpointSink
    preprocessing: Preprocessing

    def commit(self, step: int, write: Callable[[Path], None]) -> int:
        """As `CheckpointSink.commit`."""
        return self.inner.commit(step, lambda folder: self._write(folder, write))

    def _write(self, folder: Path, write: Callable[[Path], None]) -> None:
        write(folder)
        scale = torch.tensor(self.preprocessing.scale, dtype=torch.float64)
        mean_D = self.preprocessing.mean_D.cpu().contiguous()
        data = safetensors.torch.save({"mean": mean_D, "scale": scale})
        (folder / _PREPROCESSING).write_bytes(data)


def _damaged(folder: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {folder.name}: {name} cannot be read",
        remedy="submit the job anew; the data set and the spec are unchanged",
    )
