"""A run with everything around its steps: rows from shards, reports, a checkpoint, a resume.

Compared with the bare steps, whose rows lie on the device. The resumed run has to be the
undisturbed one, bit for bit.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench.gpu.correctness import deterministic
from bench.gpu.lab import Lab, Record, Shape
from bench.gpu.ours import advance, spec_of, trainer_of
from bench.planted.synthetic import write_synthetic

from saeserve.core.architectures.contract import Dimensions
from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.preprocess import Preprocessing, fit_preprocessing
from saeserve.core.data.source import ShardSource
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.events import MetricsReported
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import Trainer

STEPS = 1000
REPORT_STEPS = 10
"""Steps between reports; the default of a spec."""
BATCHES = 6
"""Batches of rows in the data set, so that epochs and windows change."""


class OneFolder:
    """Keeps a run's last checkpoint."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def commit(self, step: int, write: Callable[[Path], None]) -> int:
        """Bytes of what `write` wrote."""
        folder = self.root / str(step)
        folder.mkdir(parents=True)
        write(folder)
        return sum(path.stat().st_size for path in folder.iterdir())


def run(lab: Lab) -> None:
    """All of them, into lab.data["jobs"]."""
    data: Record = {}
    lab.data["jobs"] = data
    shape = lab.shapes["S1"]
    with tempfile.TemporaryDirectory() as folder, deterministic(strict=False):
        rows = _rows(Path(folder), shape)
        for name, fields in {"topk": {"k": shape.k}, "jumprelu": {}}.items():
            job = Job(rows, shape, {name: fields}, lab.device, Path(folder) / name)
            lab.attempt(data, f"S1 {name}", lambda job=job: job.compared(lab))


def _rows(folder: Path, shape: Shape) -> ShardedDataset:
    """Planted rows in float16, in shards."""
    manifest = write_synthetic(
        folder,
        name="planted",
        d=shape.d,
        n_features=4 * shape.d,
        active=8,
        rows=BATCHES * shape.batch,
        seed=5,
        dtype="float16",
        shard_rows=shape.batch,
    )
    return ShardedDataset(folder, manifest)


class Job:
    """One architecture on the rows of one data set."""

    def __init__(
        self,
        rows: ShardedDataset,
        shape: Shape,
        architecture: dict[str, Any],
        device: torch.device,
        folder: Path,
    ) -> None:
        self._shape, self._architecture, self._device = shape, architecture, device
        self._folder = folder
        self._source = ShardSource(rows, "activations", norm_cut=0, seed=0, window_shards=2)
        self._preprocessing: Preprocessing | None = None

    def compared(self, lab: Lab) -> Record:
        """Speeds of the run and of its bare steps, and whether a resumed run is the same."""
        steps = 4 if lab.tiny else STEPS
        bare = self._bare(lab, steps)
        began = time.perf_counter()
        trainer, reports = self._undisturbed(steps)
        lab.sync()
        taken = time.perf_counter() - began
        resumed = self._resumed(steps)
        one, other = trainer.state.tensors(), resumed.state.tensors()
        return {
            "tokens_per_s": steps * self._shape.batch / taken,
            "bare_tokens_per_s": bare,
            "share_of_bare": steps * self._shape.batch / taken / bare,
            "data_wait_fraction": [each.values["data_wait_fraction"] for each in reports],
            "resumed differs in": [name for name in one if not torch.equal(one[name], other[name])],
        }

    def _spec(self, steps: int) -> TrainSpec:
        spec = spec_of(self._architecture, self._shape, steps=steps, dtype="auto")
        return spec.model_copy(
            update={"log_every_steps": REPORT_STEPS, "checkpoint_every_steps": steps}
        )

    def _setup(self, steps: int) -> TrainingSetup:
        spec, shape = self._spec(steps), self._shape
        if self._preprocessing is None:
            self._preprocessing = fit_preprocessing(self._source, spec.preprocess)
        dims = Dimensions(shape.d, shape.d, shape.m)
        return TrainingSetup(spec, dims, self._source, self._preprocessing, self._device)

    def _bare(self, lab: Lab, steps: int) -> float:
        """Tokens a second of steps without feed, report or checkpoint."""
        shape = self._shape
        x = self._setup(steps).preprocessing.apply(self._source.batch(0, 2 * shape.batch))
        trainer = trainer_of(
            spec_of(self._architecture, shape, steps=10**6, dtype="auto"),
            x.to(self._device),
            self._device,
        )
        advance(trainer, 2)
        lab.sync()
        began = time.perf_counter()
        advance(trainer, steps)
        lab.sync()
        return steps * shape.batch / (time.perf_counter() - began)

    def _undisturbed(self, steps: int) -> tuple[Trainer, list[MetricsReported]]:
        trainer = Trainer.start(self._setup(steps))
        events = list(trainer.run(OneFolder(self._folder), lambda: False))
        return trainer, [each for each in events if isinstance(each, MetricsReported)]

    def _resumed(self, steps: int) -> Trainer:
        """Stopped in the middle, and from the checkpoint of that to the end."""
        half = Trainer.start(self._setup(steps))
        for _event in half.run(OneFolder(self._folder / "half"), lambda: half.step >= steps // 2):
            pass
        folder = self._folder / "half" / str(half.step)
        trainer = Trainer.resume(self._setup(steps), folder)
        for _event in trainer.run(OneFolder(self._folder / "resumed"), lambda: False):
            pass
        if not math.isfinite(float(trainer.state.params["b_dec"].sum())):
            raise ValueError("the resumed run is not finite")
        return trainer
