"""The planted data of the ground-truth benchmarks: one setting, one truth a seed.

SynthSAEBench-16k (arXiv 2602.14687) scaled to two CPU cores. Kept: the Zipf law and its lowest
probability, two thirds of the features in a forest of mutually exclusive children, correlations,
magnitudes, interference (L0 / d = 0.048 here, 0.044 there) and k / L0 (0.74 in both). Changed: half
of the features have a latent, instead of a quarter; 2 M samples instead of 200 M.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment

from saeserve.core.data.ground_truth import (
    BLOCK_ROWS,
    GroundTruth,
    GroundTruthSource,
    GroundTruthSpec,
    TrueRows,
)
from saeserve.core.evaluation.ground_truth import Dictionary, Recovery, recovery

SPEC = GroundTruthSpec(d=256, features=2048)
K = 9
HELDOUT_BLOCKS = 100
SEED_OFFSET = 1000
"""Truth number s is drawn from seed SEED_OFFSET + s; no setting was chosen on these seeds."""


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
        """The training rows, every one read once."""
        return GroundTruthSource(truth, self.steps * self.batch_size)

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
