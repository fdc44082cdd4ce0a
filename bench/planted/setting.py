"""The planted data of the ground-truth benchmarks: one setting, one truth a seed.

SynthSAEBench-16k (arXiv 2602.14687) scaled to two CPU cores. Kept: the Zipf law and its lowest
probability, two thirds of the features in a forest of mutually exclusive children, correlations,
magnitudes, interference (L0 / d = 0.048 here, 0.044 there) and k / L0 (0.74 in both). Changed: half
of the features have a latent, instead of a quarter; 2 M samples instead of 200 M.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from bench.planted.recovery import Dictionary, Recovery, recovery
from bench.planted.truth import (
    BLOCK_ROWS,
    GroundTruth,
    GroundTruthSource,
    GroundTruthSpec,
    TrueRows,
)
from scipy.optimize import linear_sum_assignment

SPEC = GroundTruthSpec(d=256, features=2048)
K = 9
HELDOUT_BLOCKS = 100
KEPT = Path(".saeserve/bench/planted")
SEED_OFFSET = 1000
"""Truth number s is drawn from seed SEED_OFFSET + s; no setting was chosen on these seeds."""


class KeptRows(GroundTruthSource):
    """The same rows, from a file."""

    def __init__(self, truth: GroundTruth, rows: int, path: Path) -> None:
        super().__init__(truth, rows)
        self._kept = np.load(path, mmap_mode="r")

    def _draw(self, index: int) -> torch.Tensor:
        start = index * BLOCK_ROWS
        return torch.as_tensor(self._kept[start : start + BLOCK_ROWS].copy())


@dataclass(frozen=True)
class Planted:
    """One truth and the size of the training run over it."""

    seed: int
    samples: int
    d_sae: int = 1024
    batch_size: int = BLOCK_ROWS

    @property
    def steps(self) -> int:
        """Optimiser steps; the last partial batch is dropped."""
        return self.samples // self.batch_size

    def truth(self) -> GroundTruth:
        """The features; the same wherever it is called."""
        return GroundTruth(replace(SPEC, seed=SEED_OFFSET + self.seed))

    def source(self, truth: GroundTruth) -> GroundTruthSource:
        """The training rows, every one read once; from their file, where `draw` has made it."""
        rows, path = self.steps * self.batch_size, self._file(truth)
        return KeptRows(truth, rows, path) if path.exists() else GroundTruthSource(truth, rows)

    def draw(self) -> None:
        """Draw the training rows into a file, for every run to read: drawing takes as long as
        training does. Nothing, where it stands already."""
        truth = self.truth()
        path, source = self._file(truth), GroundTruthSource(truth, self.steps * self.batch_size)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        shape = (source.rows, source.d)
        kept = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, source.rows, BLOCK_ROWS):
            kept[start : start + BLOCK_ROWS] = source.batch(start, BLOCK_ROWS).numpy()
        kept.flush()
        unfinished.rename(path)

    def _file(self, truth: GroundTruth) -> Path:
        return KEPT / f"{fingerprint(truth)[:16]}-{self.steps * self.batch_size}.npy"

    def recovery(self, dictionary: Dictionary, truth: GroundTruth) -> Recovery:
        """The figures on held-out rows."""
        with torch.no_grad():
            return recovery(
                dictionary, truth.directions, self._heldout(truth), linear_sum_assignment
            )

    def _heldout(self, truth: GroundTruth) -> Iterator[TrueRows]:
        return (truth.block(index, "heldout") for index in range(HELDOUT_BLOCKS))


def fingerprint(truth: GroundTruth) -> str:
    """sha256 of what was planted and of the first rows: equal where the samples are the same."""
    digest = hashlib.sha256(truth.directions.numpy().tobytes())
    digest.update(truth.block(0).x_BD.numpy().tobytes())
    return digest.hexdigest()
