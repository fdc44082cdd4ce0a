"""The benchmark of `target_l0` at a tiny size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench import smollm2
from bench.achieved_l0 import MODELS, Setting, table, tasks, train, verdict
from bench.planted.synthetic import write_synthetic
from bench.results import Run

from saeserve.core.data.finishing import write_manifest
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.presets import PRESETS
from saeserve.core.specs.training import TrainSpec

GOOD = {
    "target_l0": 64.0,
    "l0": 63.0,
    "l0_miss": -0.016,
    "l0_moved": 0.1,
    "fvu_raised": 0.01,
    "l0_next": 64.2,
    "fvu": 0.2,
    "silent": 0.0,
}


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    torch.set_num_threads(1)
    manifest = write_synthetic(
        tmp_path, name="planted", d=16, n_features=24, active=3, rows=4096, seed=1, offset=3.0
    )
    write_manifest(tmp_path, manifest)
    return Setting(
        dataset=tmp_path,
        source="activations",
        d_sae=32,
        steps=400,
        batch_size=64,
        lr=3e-3,
        warmup_steps=10,
        decay_fraction=0.2,
        seed=0,
    )


@pytest.mark.parametrize("name", ["batchtopk", "gated", "jumprelu-tanh"])
def test_what_is_asked_for_is_measured_on_held_out_rows(name: str, setting: Setting) -> None:
    figures = train(name, 4.0, setting)
    assert figures["l0_miss"] == pytest.approx(figures["l0"] / 4 - 1)
    assert verdict(figures) == "reached", figures
    assert figures["l0_next"] == pytest.approx(4, rel=0.05)
    assert figures["fvu"] < 0.9


def test_a_run_that_does_not_get_there_is_missed(setting: Setting) -> None:
    figures = train("relu", 4.0, replace(setting, steps=20, lr=1e-5))
    assert verdict(figures) == "MISSED: l0"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "reached"),
        ({"l0_miss": -0.06}, "MISSED: l0"),
        ({"l0_moved": -0.2, "fvu_raised": 0.03}, "MISSED: l0_moved, fvu_raised"),
        ({"l0_miss": float("nan")}, "MISSED: l0"),
    ],
)
def test_a_verdict_names_what_was_missed(changed: dict[str, float], expected: str) -> None:
    assert verdict(GOOD | changed) == expected


def test_the_table_shows_a_line_for_every_run() -> None:
    run = Run("saeserve", "gated", "target 64", 0, GOOD, 12.3)
    head, line = table([run]).splitlines()
    assert head.split()[:3] == ["model", "asked", "l0"]
    assert line.split()[:6] == ["gated", "64", "63.00", "-1.6%", "+10.0%", "+1.0%"]
    assert line.endswith("reached")


def test_every_architecture_is_tried_and_some_at_further_targets(setting: Setting) -> None:
    listed = [(task.name, task.variant) for task in tasks(list(MODELS), None, setting)]
    assert len(listed) == len(set(listed)) == len(MODELS) + 6
    assert [v for name, v in listed if name == "relu"] == ["target 64", "target 32", "target 128"]
    parsed = (
        TrainSpec.parse({"dataset": "d", "model": "m", "d_sae": 256, "tokens": 9999} | fields, "")
        for fields in ({"target_l0": 8.0, "batch_size": 64} | own for own in MODELS.values())
    )
    assert {spec.architecture.name for spec in parsed} == set(ARCHITECTURE_SPECS)
    assert {own["preset"] for own in MODELS.values() if "preset" in own} <= set(PRESETS)
    assert [task.variant for task in tasks(["topk"], [7.0], setting)] == ["target 7"]


def test_a_missing_data_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run `make demo` first"):
        smollm2.check(tmp_path)
