"""Runs whose steps are recorded equal runs without, bit for bit, and record what they can."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.lanes import LateLane
from tests.fakes.recorders import RerunRecorder
from tests.fakes.training import (
    FolderSink,
    run_all,
    run_until,
    tiny_setup,
    tiny_spec,
)

from saeserve.core.data.prepared import AsTheyAre, PreparedRows
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training import reports, stepper
from saeserve.core.training.events import MetricsReported, TrainingEvent, Warned
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.sweep import Sweep
from saeserve.core.training.trainer import Trainer

STEPS = 30
ANNEALED: dict[str, Any] = {"k": 4, "k_aux": 8, "k_initial": 6, "k_anneal_fraction": 0.3}
SORTED: dict[str, Any] = {
    **{"k": 4, "k_aux": 8, "widths": [8, 24, 48]},
    **{"sort_by_frequency": True, "sort_every_steps": 7},
}
PENALISED: dict[str, Any] = {"sparsity_coefficient": 0.5, "sparsity_warmup_fraction": 0.5}
SPECS: dict[str, dict[str, Any]] = {
    "topk, latents die": {"topk": {"k": 2, "k_aux": 8}},
    "batchtopk, k annealed": {"batchtopk": ANNEALED},
    "matryoshka, sorted": {"matryoshka": SORTED},
    "jumprelu": {"jumprelu": {"sparsity_coefficient": 20.0}},
    "jumprelu, target_l0": {"jumprelu": {}, "target_l0": 5.0},
    "relu": {"relu": PENALISED},
    "gated": {"gated": PENALISED},
}


@pytest.fixture(autouse=True)
def _at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cadences of the spec, not of the clock."""
    monkeypatch.setattr(reports, "REPORT_S", 0.0)
    monkeypatch.setattr(reports, "CHECKPOINT_S", 0.0)


def spec_of(fields: dict[str, Any], **changes: object) -> TrainSpec:
    """Of STEPS steps, in which latents die and come back."""
    rest: dict[str, Any] = {"tokens": STEPS * 64, "log_every_steps": 4, **changes}
    (name, _), *_ = fields.items()
    spec = tiny_spec(name, **(rest | fields))
    return spec.model_copy(update={"dead_window_tokens": 2 * 64})


def setup_of(spec: TrainSpec, recorder: RerunRecorder | None = None) -> TrainingSetup:
    lane = LateLane(free=2**30)
    return dataclasses.replace(tiny_setup(spec), lane=lane, recorder=recorder)


def reported(events: list[TrainingEvent]) -> dict[int, dict[str, float]]:
    by_clock = {"tokens_per_second", "data_wait_fraction"}
    return {
        event.step: {name: value for name, value in event.values.items() if name not in by_clock}
        for event in events
        if isinstance(event, MetricsReported)
    }


def differing(one: Trainer, other: Trainer) -> list[str]:
    first, second = one.state.tensors(), other.state.tensors()
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.mark.parametrize("micro", [64, 32])
@pytest.mark.parametrize("case", SPECS)
def test_a_recorded_run_is_the_run_without(case: str, micro: int, tmp_path: Path) -> None:
    spec = spec_of(SPECS[case], micro_batch_size=micro)
    recorder = RerunRecorder()
    there, here = Trainer.start(setup_of(spec, recorder)), Trainer.start(setup_of(spec))
    found = run_all(there, FolderSink(tmp_path / "a"))
    wanted = run_all(here, FolderSink(tmp_path / "b"))
    assert differing(there, here) == []
    assert reported(found) == reported(wanted)
    assert recorder.recorded > 0
    assert there.stepper.replays > STEPS // 4
    assert here.stepper.replays == 0


def test_dead_latents_come_and_go_in_recorded_steps(tmp_path: Path) -> None:
    spec = spec_of(SPECS["topk, latents die"], log_every_steps=1)
    recorder = RerunRecorder()
    trainer = Trainer.start(setup_of(spec, recorder))
    events = run_all(trainer, FolderSink(tmp_path))
    dead = [figures["dead"] for figures in reported(events).values()]
    assert min(dead[:2]) == 0 < max(dead)
    assert recorder.recorded > 1
    assert trainer.stepper.replays > STEPS // 3


def test_a_resumed_run_is_the_undisturbed_one_with_recordings_or_without(tmp_path: Path) -> None:
    spec = spec_of(SPECS["topk, latents die"])
    whole = Trainer.start(setup_of(spec, RerunRecorder()))
    run_all(whole, FolderSink(tmp_path / "whole"))
    run_until(Trainer.start(setup_of(spec, RerunRecorder())), FolderSink(tmp_path / "part"), 17)
    for name, recorder in (("on", RerunRecorder()), ("off", None)):
        resumed = Trainer.resume(setup_of(spec, recorder), tmp_path / "part" / "17")
        run_all(resumed, FolderSink(tmp_path / name))
        assert differing(resumed, whole) == []


def counted(spec: TrainSpec, steps: int = STEPS) -> tuple[int, int]:
    """Recordings and replays of the first steps."""
    recorder = RerunRecorder()
    trainer = Trainer.start(setup_of(spec, recorder))
    list(trainer.opening())
    for _ in range(steps):
        list(trainer.advance())
    return recorder.recorded, trainer.stepper.replays


def test_a_learning_rate_that_changes_is_no_reason_to_record_again() -> None:
    optimizer = {"lr": 3e-3, "warmup_steps": 20}
    spec = spec_of({"topk": {"k": 4, "auxk_coefficient": 0.0}}, optimizer=optimizer)
    assert counted(spec) == (1, STEPS - stepper.WARM)


def test_a_penalty_that_rises_is_no_reason_either() -> None:
    assert counted(spec_of(SPECS["jumprelu"])) == (1, STEPS - stepper.WARM)


def test_while_k_changes_steps_are_not_recorded() -> None:
    off = {**ANNEALED, "auxk_coefficient": 0.0}
    spec = spec_of({"batchtopk": off})
    settled = round(0.3 * STEPS)
    assert counted(spec, settled) == (0, 0)
    assert counted(spec) == (1, STEPS - settled - stepper.WARM)


def test_auxk_is_left_to_autograd_and_not_recorded() -> None:
    with_auxk = {"relu": {**PENALISED, "auxk_coefficient": 1 / 32}}
    assert counted(spec_of(with_auxk)) == (0, 0)


def test_where_the_setup_forbids_it_nothing_is_recorded() -> None:
    recorder = RerunRecorder()
    setup = dataclasses.replace(setup_of(spec_of(SPECS["jumprelu"]), recorder), graphs=False)
    trainer = Trainer.start(setup)
    for _ in range(10):
        list(trainer.advance())
    assert (recorder.recorded, trainer.stepper.replays) == (0, 0)


def test_a_step_that_cannot_be_recorded_is_done_once_and_the_run_goes_on(tmp_path: Path) -> None:
    spec = spec_of(SPECS["topk, latents die"])
    recorder = RerunRecorder(error=RuntimeError("operation not permitted when stream is capturing"))
    there, here = Trainer.start(setup_of(spec, recorder)), Trainer.start(setup_of(spec))
    events = run_all(there, FolderSink(tmp_path / "a"))
    run_all(here, FolderSink(tmp_path / "b"))
    assert differing(there, here) == []
    (warned,) = (e for e in events if isinstance(e, Warned) and e.code == "GRAPHS_OFF")
    assert stepper.WARM <= warned.step < STEPS
    assert "not permitted when stream is capturing" in warned.message


@pytest.mark.parametrize(
    "wrong", ["params.b_enc", "first.W_dec", "counters.tokens_since_fired_or_resampled"]
)
def test_a_recording_that_does_something_else_is_not_used(wrong: str, tmp_path: Path) -> None:
    spec = spec_of(SPECS["topk, latents die"])
    there = Trainer.start(setup_of(spec, RerunRecorder(wrong=wrong)))
    here = Trainer.start(setup_of(spec))
    events = run_all(there, FolderSink(tmp_path / "a"))
    run_all(here, FolderSink(tmp_path / "b"))
    assert differing(there, here) == []
    assert there.stepper.replays == 0
    (warned,) = [e for e in events if isinstance(e, Warned) and e.code == "GRAPHS_OFF"]
    assert wrong in warned.message


def test_kernels_that_are_refused_meanwhile_end_the_replays() -> None:
    recorder = RerunRecorder()
    trainer = Trainer.start(setup_of(spec_of(SPECS["jumprelu"]), recorder))
    for step in range(12):
        recorder.kernels = step < 8
        list(trainer.advance())
    assert trainer.stepper.replays == 8 - stepper.WARM


def test_no_more_recordings_are_kept_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepper, "MOST", 1)
    spec = spec_of(SPECS["topk, latents die"])
    recorder = RerunRecorder()
    trainer = Trainer.start(setup_of(spec, recorder))
    for _ in range(STEPS):
        list(trainer.advance())
    assert recorder.recorded > 1
    assert len(trainer.stepper._recordings) == 1  # pyright: ignore[reportPrivateUsage]
    trainer.stepper.release()
    assert len(trainer.stepper._recordings) == 0  # pyright: ignore[reportPrivateUsage]


def test_members_of_a_sweep_share_a_recorder_and_are_as_alone(tmp_path: Path) -> None:
    spec = spec_of(SPECS["topk, latents die"])
    lane, plain = LateLane(free=2**30), tiny_setup(spec)
    rows = PreparedRows(plain.source, plain.preprocessing, lane)
    shared: dict[str, Any] = {"source": rows, "preprocessing": AsTheyAre(), "lane": lane}
    setups = {
        f"seed{seed}": dataclasses.replace(
            plain, spec=spec.model_copy(update={"seed": seed}), recorder=RerunRecorder(), **shared
        )
        for seed in (1, 2)
    }
    sweep = Sweep.start(rows, setups)
    list(sweep.run(FolderSink(tmp_path / "sweep"), lambda: False))
    first, second = (trainer.stepper.recorder for trainer in sweep.trainers.values())
    assert first is second
    for name, trainer in sweep.trainers.items():
        assert trainer.stepper.replays > STEPS // 3
        alone = Trainer.start(setup_of(setups[name].spec))
        run_all(alone, FolderSink(tmp_path / name))
        assert differing(alone, trainer) == []
