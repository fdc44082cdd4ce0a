"""The rows that every system trains on: a data set's, centred, scaled and shuffled, in plain files.

Processes read what they need next and hold nothing, so that peak memory is the system's own. Shape
suffixes: B rows, D their width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.preprocess import Preprocessing, fit_preprocessing
from saeserve.core.data.source import ShardSource
from saeserve.core.specs.training import PreprocessSpec

AT_ONCE = 2048
FLOAT = 4
TRAIN_FILE = "train.f32"
HELDOUT_FILE = "heldout.f32"
HEADER_FILE = "rows.json"


@dataclass(frozen=True)
class Header:
    """What stands in the files."""

    dataset: str
    source: str
    sha256: str
    """Hash of the data set's manifest."""
    d: int
    train_rows: int
    heldout_rows: int
    root_mean_square: float
    """√E‖x‖² of the training rows."""


class Rows:
    """An activation source (`saeserve.core.data.source`) over the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.header = Header(**json.loads((folder / HEADER_FILE).read_text()))
        self.rows_read = 0
        """Training rows read from the file so far."""
        self._folder = folder

    @property
    def d(self) -> int:
        """Width of a row."""
        return self.header.d

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self.header.train_rows

    def batch(self, position: int, size: int) -> Tensor:
        """Rows of the endless stream, which repeats the file."""
        start = position % self.rows
        first = min(size, self.rows - start)
        self.rows_read += first
        x_BD = self._read(TRAIN_FILE, start, first)
        return x_BD if first == size else torch.cat([x_BD, self.batch(0, size - first)])

    def sample(self, n: int, seed: int) -> Tensor:  # noqa: ARG002 - the source's signature
        """The head of the file, which is shuffled."""
        return self.batch(0, min(n, self.rows))

    def heldout(self) -> Iterator[Tensor]:
        """Held-out rows by blocks."""
        for start in range(0, self.header.heldout_rows, AT_ONCE):
            yield self._read(HELDOUT_FILE, start, min(AT_ONCE, self.header.heldout_rows - start))

    def _read(self, name: str, start: int, count: int) -> Tensor:
        path, row = self._folder / name, self.d * FLOAT
        flat = np.fromfile(path, np.float32, count * self.d, offset=start * row)
        return torch.as_tensor(flat).view(count, self.d)


def write(folder: Path, dataset: Path, source: str, *, heldout_rows: int) -> Header:
    """Write the rows of a READY data set; raises what reading it raises."""
    data, spec = ShardedDataset.open(dataset), PreprocessSpec()
    shards = ShardSource(
        data, source, norm_cut=spec.norm_cut, seed=0, window_shards=spec.window_shards
    )
    preprocessing = fit_preprocessing(shards, spec)
    train = (
        shards.batch(start, min(AT_ONCE, shards.rows - start))
        for start in range(0, shards.rows, AT_ONCE)
    )
    held = data.heldout(source, norm_cut=spec.norm_cut, max_rows=heldout_rows, batch=AT_ONCE)
    rows, squares = _dump(folder / TRAIN_FILE, train, preprocessing)
    kept, _ = _dump(folder / HELDOUT_FILE, (block.x_BD for block in held), preprocessing)
    header = Header(
        dataset=data.manifest.name,
        source=source,
        sha256=data.manifest.sha256,
        d=shards.d,
        train_rows=rows,
        heldout_rows=kept,
        root_mean_square=(squares / rows) ** 0.5,
    )
    (folder / HEADER_FILE).write_text(json.dumps(asdict(header)))
    return header


def _dump(path: Path, blocks: Iterator[Tensor], preprocessing: Preprocessing) -> tuple[int, float]:
    """Rows written, and the sum of their squares."""
    rows, squares = 0, 0.0
    with path.open("wb") as file:
        for raw_BD in blocks:
            x_BD = preprocessing.apply(raw_BD)
            _append(file, x_BD)
            rows += len(x_BD)
            squares += float(x_BD.double().square().sum())
    return rows, squares


def _append(file: BinaryIO, x_BD: Tensor) -> None:
    file.write(x_BD.float().contiguous().numpy().tobytes())
