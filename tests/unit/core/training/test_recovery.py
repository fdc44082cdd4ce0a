"""A small recovery of planted features; the full one stands in tests/slow."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.sources import PlantedSource
from tests.fakes.training import D, FolderSink, run_all, tiny_setup, tiny_spec

from saeserve.core.training.trainer import Trainer


def test_topk_finds_the_planted_features(tmp_path: Path) -> None:
    source = PlantedSource(features=24, d=D, active=2, seed=3)
    spec = tiny_spec(
        "topk",
        topk={"k": 2},
        tokens=600 * 64,
        optimizer={"lr": 1e-2},
        log_every_steps=100,
        checkpoint_every_steps=1000,
    )
    trainer = Trainer.start(tiny_setup(spec, source))
    before = source.recovered(trainer.form().W_dec_FO, 0.95)
    run_all(trainer, FolderSink(tmp_path))
    assert before < 0.1
    assert source.recovered(trainer.form().W_dec_FO, 0.95) >= 0.9
