"""Planted features are recovered: 512 of them in 256 dimensions, 4 active a row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.fakes.sources import PlantedSource
from tests.fakes.training import FolderSink, run_all

from saeserve.core.architectures.contract import Dimensions
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import Trainer

D, FEATURES, ACTIVE, LATENTS = 256, 512, 4, 1024


def preprocessing(source: PlantedSource) -> Preprocessing:
    sample = source.sample(8192, seed=1)
    centred = sample - sample.mean(dim=0)
    return Preprocessing(
        sample.mean(dim=0), D**0.5 / float(centred.square().sum(dim=1).sqrt().mean())
    )


RUNS: dict[str, tuple[dict[str, int], float, int]] = {
    "topk": ({"k": ACTIVE}, 5e-3, 500),
    "jumprelu": ({}, 2e-3, 1500),
}
"""Architecture: its spec, learning rate and steps."""


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", RUNS)
def test_nearly_every_planted_feature_is_recovered(name: str, seed: int, tmp_path: Path) -> None:
    architecture, lr, steps = RUNS[name]
    source = PlantedSource(FEATURES, D, ACTIVE, seed)
    fields = {
        "dataset": "planted",
        "model": "planted",
        name: architecture,
        "d_sae": LATENTS,
        "tokens": steps * 256,
        "batch_size": 256,
        "seed": seed,
        "optimizer": {"lr": lr},
        "log_every_steps": 100,
        "checkpoint_every_steps": 10_000,
    }
    spec = resolve(TrainSpec.parse(fields, "train"), D, "planted")
    setup = TrainingSetup(
        spec, Dimensions(D, D, LATENTS), source, preprocessing(source), torch.device("cpu")
    )
    trainer = Trainer.start(setup)
    run_all(trainer, FolderSink(tmp_path))
    assert source.recovered(trainer.form().W_dec_FO, 0.95) >= 0.99
