"""The benchmarks' data, tasks and baseline at a tiny size."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from bench.baseline import random_decoder
from bench.groundtruth import MODELS, fingerprints, preset_fields, tasks, train_ours
from bench.planted import setting as planted
from bench.planted.setting import HELDOUT_BLOCKS, K, Planted, fingerprint
from bench.planted.truth import BLOCK_ROWS, GroundTruthSpec
from bench.results import Results, Run
from bench.tasks import Task, run_all

from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.presets import PRESETS

SMALL = GroundTruthSpec(d=16, features=32, roots=2, branching=2, correlation_rank=2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Planted:
    torch.set_num_threads(1)
    monkeypatch.setattr(planted, "SPEC", SMALL)
    monkeypatch.setattr(planted, "HELDOUT_BLOCKS", 2)
    monkeypatch.setattr(planted, "KEPT", tmp_path)
    return Planted(seed=1, samples=20 * BLOCK_ROWS + 5, d_sae=24)


def test_the_setting_keeps_the_published_proportions() -> None:
    """L0 / d and k / L0 of SynthSAEBench-16k: 34 / 768 and 25 / 34."""
    expected_l0 = float(planted.SPEC.probabilities().sum())
    assert expected_l0 / planted.SPEC.d == pytest.approx(34 / 768, rel=0.1)
    assert pytest.approx(25 / 34, rel=0.02) == K / expected_l0
    assert HELDOUT_BLOCKS * BLOCK_ROWS >= 100_000


def test_a_run_reads_whole_batches_once(tiny: Planted) -> None:
    assert tiny.steps == 20
    assert tiny.source(tiny.truth()).rows == 20 * BLOCK_ROWS


def test_the_fingerprint_tells_samples_apart(tiny: Planted) -> None:
    same, other = Planted(1, tiny.samples), Planted(2, tiny.samples)
    assert fingerprint(tiny.truth()) == fingerprint(same.truth()) != fingerprint(other.truth())
    assert set(fingerprints([1, 2], tiny.samples)) == {"1", "2"}


def test_frozen_random_directions_explain_something_and_recover_nothing(tiny: Planted) -> None:
    truth = tiny.truth()
    source = tiny.source(truth)
    dictionary = random_decoder(
        source, d_sae=24, k=4, steps=20, batch_size=BLOCK_ROWS, lr=1e-2, seed=0
    )
    before = random_decoder(source, d_sae=24, k=4, steps=0, batch_size=BLOCK_ROWS, lr=1e-2, seed=0)
    found, untrained = tiny.recovery(dictionary, truth), tiny.recovery(before, truth)
    assert torch.equal(dictionary.directions_FD, before.directions_FD)
    assert found.explained_variance > untrained.explained_variance
    assert found.mcc == untrained.mcc < 0.8
    assert 0 < found.l0 <= 4


def test_our_models_are_trained_and_measured(
    tiny: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "topk", {"topk": {"k": 3}})
    figures = train_ours("topk", tiny)
    assert figures["rows"] == 2 * BLOCK_ROWS
    assert 0 < figures["l0"] <= 3
    assert figures["f1"] > 0.1


def test_every_preset_is_asked_for_the_benchmarks_sparsity() -> None:
    assert set(MODELS) == {*PRESETS, "matryoshka"}
    for name, fields in MODELS.items():
        architecture = next(iter(fields.keys() & ARCHITECTURE_SPECS.keys()), None)
        asked = fields["target_l0"] if architecture is None else fields[architecture]["k"]
        assert asked == K, name
    annealed = preset_fields("matryoshka-best")["matryoshka"]
    assert annealed["k_initial"] / annealed["k"] == pytest.approx(80 / 25)


def test_rows_from_the_file_are_those_that_were_drawn(tiny: Planted) -> None:
    truth = tiny.truth()
    drawn = tiny.source(truth)
    tiny.draw()
    kept = tiny.source(truth)
    assert type(kept) is not type(drawn)
    for position, size in ((0, BLOCK_ROWS), (3 * BLOCK_ROWS + 5, 700), (19 * BLOCK_ROWS, 2000)):
        assert torch.equal(kept.batch(position, size), drawn.batch(position, size))
    assert torch.equal(kept.sample(3000, 1), drawn.sample(3000, 1))


def test_every_model_and_the_baseline_run_for_every_seed() -> None:
    listed = tasks(["topk"], [3, 4], samples=5 * BLOCK_ROWS)
    assert [(task.library, task.name, task.seed) for task in listed] == [
        ("saeserve", "topk", 3),
        ("random decoder", "topk", 3),
        ("saeserve", "topk", 4),
        ("random decoder", "topk", 4),
    ]


def test_tasks_run_in_processes_of_one_thread_unless_their_run_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [Task("ours", "x", "", seed, partial(_figures, seed)) for seed in (5, 6, 7)]
    path, kept = tmp_path / "found.json", Run("ours", "x", "", 7, {"f1": 0.5}, seconds=1.0)
    found = run_all(listed, 1, Results("tried", {}, {}, (kept,)), path)
    assert [(run.seed, run.figures) for run in found.runs] == [
        (5, {"f1": 5.0, "threads": 1.0}),
        (6, {"f1": 6.0, "threads": 1.0}),
        (7, {"f1": 0.5}),
    ]
    assert Results.load(path) == found
    assert "3/3] ours x, seed 6: f1 6.000" in capsys.readouterr().out


def _figures(seed: int) -> dict[str, float]:
    return {"f1": float(seed), "threads": float(torch.get_num_threads())}
