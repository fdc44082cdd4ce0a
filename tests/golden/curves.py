"""The golden loss curves: 50 tiny steps of each architecture, one loss a line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tests.fakes.training import FolderSink, metric, run_all, tiny_setup, tiny_spec

from saeserve.core.data.source import ActivationSource
from saeserve.core.training.trainer import Trainer

FOLDER = Path(__file__).parent
TOLERANCE = 1e-3
"""Relative: other CPUs sum in another order, and a tie may then be broken otherwise."""


def curve(name: str, source: ActivationSource | None = None, key: str = "loss") -> list[float]:
    """The losses (or another metric) of the tiny run, on one thread."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer.start(tiny_setup(tiny_spec(name, checkpoint_every_steps=1000), source))
        return metric(run_all(trainer, FolderSink(Path(folder))), key)


def read_golden(name: str) -> list[float]:
    """The recorded losses."""
    return [float(line) for line in (FOLDER / f"{name}.txt").read_text().splitlines()]


def write_golden(name: str) -> Path:
    """Record today's losses."""
    path = FOLDER / f"{name}.txt"
    path.write_text("".join(f"{loss:.9g}\n" for loss in curve(name)))
    return path
