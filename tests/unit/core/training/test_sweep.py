"""Members train as if alone, bit for bit, on rows that are read once; each diverges for itself."""

from __future__ import annotations

import dataclasses
import json
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.sources import CountedSource, PlantedSource
from tests.fakes.training import D, F, FolderSink, run_all, tiny_setup, tiny_spec

from saeserve.core.architectures.contract import Dimensions, EvaluationForm
from saeserve.core.data.lane import HostLane
from saeserve.core.data.prepared import AsTheyAre, PreparedRows
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.core.training.events import (
    CheckpointCommitted,
    Diverged,
    Finished,
    MetricsReported,
    Stopped,
    Warned,
)
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.sweep import SWEEP_FILE, OfMember, Sweep, SweepEvent
from saeserve.core.training.trainer import Trainer
from saeserve.errors import CheckpointError, DivergedError

DIVERGES = 1e30
STEPS, BATCH = 12, 64


def sweep_spec(sweep: dict[str, list[float]], name: str = "topk", **changes: object) -> TrainSpec:
    fields: dict[str, Any] = {
        "dataset": "tiny",
        "model": "tiny",
        name: {} if "k" in sweep or name != "topk" else {"k": 4, "k_aux": 8},
        "tokens": STEPS * BATCH,
        "batch_size": BATCH,
        "log_every_steps": 1,
        "checkpoint_every_steps": 5,
        "sweep": sweep,
    }
    width = {} if "d_sae" in sweep else {"d_sae": F}
    return TrainSpec.parse(fields | width | changes, "train")


class Run:
    """A sweep on planted rows, its members' own setups, and what they read."""

    def __init__(self, spec: TrainSpec, initial: EvaluationForm | None = None) -> None:
        self.source = CountedSource(PlantedSource(features=24, d=D, active=3, seed=1))
        members = (resolve(member, D, "planted") for member in spec.members)
        self.alone = {
            m.model: dataclasses.replace(
                tiny_setup(m, self.source, Dimensions(D, D, m.d_sae)), initial=initial
            )
            for m in members
        }
        first = next(iter(self.alone.values()))
        self.rows = PreparedRows(self.source, tiny_setup(first.spec).preprocessing, HostLane())
        self.setups = {
            name: dataclasses.replace(setup, source=self.rows, preprocessing=AsTheyAre())
            for name, setup in self.alone.items()
        }

    def start(self) -> Sweep:
        return Sweep.start(self.rows, self.setups)

    def resume(self, folder: Path) -> Sweep:
        return Sweep.resume(self.rows, self.setups, folder)


def bits(trainer: Trainer | None) -> dict[str, torch.Tensor]:
    assert trainer is not None
    return trainer.state.tensors()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def undisturbed(setup: TrainingSetup, folder: Path) -> dict[str, torch.Tensor]:
    trainer = Trainer.start(setup)
    run_all(trainer, FolderSink(folder))
    return bits(trainer)


def until(sweep: Sweep, sink: FolderSink, step: int) -> list[SweepEvent]:
    return list(sweep.run(sink, lambda: sweep.step >= step))


SWEEPS: list[tuple[str, dict[str, list[float]], dict[str, Any]]] = [
    ("topk", {"k": [2, 4], "d_sae": [32, 48]}, {}),
    ("topk", {"seed": [1, 2], "lr": [1e-3, 3e-3]}, {"micro_batch_size": 16}),
    ("batchtopk", {"target_l0": [3, 5]}, {"batchtopk": {"k_aux": 8}}),
    ("relu", {"sparsity_coefficient": [0.5, 2.0]}, {"relu": {"decoder_norm": 0.5}}),
    ("jumprelu", {"target_l0": [4, 8]}, {"resample": {"steps": [4], "rows": 128}}),
    ("matryoshka", {"d_sae": [48, 64]}, {"matryoshka": {"k": 4, "k_aux": 8}}),
    ("gated", {"sparsity_coefficient": [0.5, 1.0]}, {"gated": {}}),
]


@pytest.mark.parametrize(("name", "grid", "changes"), SWEEPS)
def test_every_member_is_the_same_spec_trained_alone(
    tmp_path: Path, name: str, grid: dict[str, list[float]], changes: dict[str, Any]
) -> None:
    run = Run(sweep_spec(grid, name, **changes))
    sweep = run.start()
    list(sweep.run(FolderSink(tmp_path / "all"), lambda: False))
    assert len(run.alone) >= 2
    for member, setup in run.alone.items():
        assert same(bits(sweep.release(member)), undisturbed(setup, tmp_path / member)), member


def test_members_that_continue_one_model_do_not_write_to_it(tmp_path: Path) -> None:
    first = Trainer.start(tiny_setup(tiny_spec("topk")))
    run = Run(sweep_spec({"seed": [1, 2], "lr": [1e-3, 3e-3]}), first.form())
    sweep = run.start()
    list(sweep.run(FolderSink(tmp_path / "all"), lambda: False))
    for member, setup in run.alone.items():
        assert same(bits(sweep.release(member)), undisturbed(setup, tmp_path / member)), member


def test_every_row_is_read_once_whatever_the_number_of_members(tmp_path: Path) -> None:
    run = Run(sweep_spec({"k": [2, 4], "lr": [1e-3, 3e-3]}, micro_batch_size=32))
    list(run.start().run(FolderSink(tmp_path), lambda: False))
    first = [(0, BATCH)]  # the untrained model's L0
    steps = [(position, 32) for position in range(0, STEPS * BATCH, 32)]
    assert run.source.reads == first + steps
    assert len(run.source.samples) == 1


@pytest.mark.parametrize(
    ("held_rows", "turns"),
    [(1, [1] * 12), (2 * BATCH, [2, 2, 1, 1, 2, 2, 2]), (10**6, [5, 1, 4, 2])],
)
def test_members_take_turns_that_end_where_somebody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_rows: int, turns: list[int]
) -> None:
    """Reports after 6 and 12 steps, checkpoints after 5 and 10."""
    monkeypatch.setattr("saeserve.core.training.sweep.HELD_BYTES", 4 * D * held_rows)
    run = Run(sweep_spec({"k": [2, 4]}, log_every_steps=6))
    sweep, sink = run.start(), FolderSink(tmp_path / "all")
    looked = [0]
    list(sweep.run(sink, lambda: looked.append(sweep.step) or False))
    assert [after - before for before, after in pairwise([*looked[1:], STEPS])] == turns
    assert sink.steps == [5, 10, 12]
    reads = run.source.reads
    assert reads == [(0, BATCH)] + [(n * BATCH, BATCH) for n in range(1, STEPS)]
    for name, setup in run.alone.items():
        assert same(bits(sweep.release(name)), undisturbed(setup, tmp_path / name))


def test_events_name_their_member_and_one_checkpoint_holds_all(tmp_path: Path) -> None:
    run = Run(sweep_spec({"k": [2, 4]}, log_every_steps=6))
    sink = FolderSink(tmp_path)
    events = list(run.start().run(sink, lambda: False))
    told = [
        (e.member, e.event.step)
        for e in events
        if isinstance(e, OfMember) and isinstance(e.event, MetricsReported)
    ]
    assert told == [(name, step) for step in (6, 12) for name in ("tiny-k2", "tiny-k4")]
    assert sink.steps == [5, 10, 12]
    assert [e.step for e in events if isinstance(e, CheckpointCommitted)] == sink.steps
    assert events[-1] == Finished(STEPS)
    # What is true of the job is told once.
    assert [e.code for e in events if isinstance(e, Warned)] == ["DEAD_WINDOW_LOWERED"]
    names = {path.relative_to(tmp_path / "12").as_posix() for path in (tmp_path / "12").rglob("*")}
    files = {f"{m}/{f}" for m in run.alone for f in ("checkpoint.json", "state.safetensors")}
    assert names == {SWEEP_FILE, *run.alone, *files}


@pytest.mark.parametrize("at", [0, 3, 5, 7, 12])
def test_a_stopped_sweep_is_resumed_to_the_same_bits(tmp_path: Path, at: int) -> None:
    run = Run(sweep_spec({"k": [2, 4]}))
    whole = run.start()
    list(whole.run(FolderSink(tmp_path / "whole"), lambda: False))
    sink = FolderSink(tmp_path / "parts")
    assert until(run.start(), sink, at)[-1] == (Finished(at) if at == STEPS else Stopped(at))
    resumed = run.resume(sink.root / str(at))
    assert resumed.step == at
    list(resumed.run(FolderSink(tmp_path / "rest"), lambda: False))
    for name in run.alone:
        assert same(bits(whole.release(name)), bits(resumed.release(name)))


def test_one_that_diverges_ends_alone(tmp_path: Path) -> None:
    run = Run(sweep_spec({"lr": [1e-3, DIVERGES, 3e-3]}))
    sweep = run.start()
    events = list(sweep.run(FolderSink(tmp_path / "all"), lambda: False))
    [ended] = [e for e in events if isinstance(e, OfMember) and isinstance(e.event, Diverged)]
    with pytest.raises(DivergedError) as alone:
        undisturbed(run.alone["tiny-lr1e30"], tmp_path / "alone")
    told = (alone.value.step, alone.value.code, alone.value.message, alone.value.remedy)
    assert ended == OfMember("tiny-lr1e30", Diverged(*told))
    assert sweep.release("tiny-lr1e30") is None
    assert sweep.lost["tiny-lr1e30"].message == alone.value.message
    for name in ("tiny-lr0.001", "tiny-lr0.003"):
        assert same(bits(sweep.release(name)), undisturbed(run.alone[name], tmp_path / name))


def test_one_that_is_found_to_have_diverged_at_a_checkpoint_is_not_in_it(tmp_path: Path) -> None:
    run = Run(sweep_spec({"k": [2, 4]}, log_every_steps=1000))
    sweep, sink = run.start(), FolderSink(tmp_path)
    sweep.trainers["tiny-k2"].state.moments.second["b_enc"][0] = torch.inf
    events = until(sweep, sink, 5)
    [ended] = [e.event for e in events if isinstance(e, OfMember)]
    assert isinstance(ended, Diverged)
    assert "a parameter or moment is not finite" in ended.message
    assert not (tmp_path / "5" / "tiny-k2").exists()
    assert (tmp_path / "5" / "tiny-k4").is_dir()


@pytest.mark.parametrize("name", ARCHITECTURE_SPECS)
def test_one_that_is_nan_for_long_is_found_and_disturbs_nobody(tmp_path: Path, name: str) -> None:
    run = Run(sweep_spec({"lr": [1e-3, DIVERGES]}, name, log_every_steps=1000))
    sweep = run.start()
    list(sweep.run(FolderSink(tmp_path / "all"), lambda: False))
    assert list(sweep.lost) == ["tiny-lr1e30"]
    wanted = undisturbed(run.alone["tiny-lr0.001"], tmp_path / "alone")
    assert same(bits(sweep.release("tiny-lr0.001")), wanted)


def test_one_that_diverged_stays_out_after_resuming(tmp_path: Path) -> None:
    run = Run(sweep_spec({"lr": [DIVERGES, 1e-3]}))
    sink = FolderSink(tmp_path / "parts")
    until(run.start(), sink, 5)
    resumed = run.resume(sink.root / "5")
    assert list(resumed.lost) == ["tiny-lr1e30"]
    events = list(resumed.run(FolderSink(tmp_path / "rest"), lambda: False))
    assert {e.member for e in events if isinstance(e, OfMember)} == {"tiny-lr0.001"}
    wanted = undisturbed(run.alone["tiny-lr0.001"], tmp_path / "alone")
    assert same(bits(resumed.release("tiny-lr0.001")), wanted)


def test_a_sweep_ends_when_its_last_member_diverges(tmp_path: Path) -> None:
    run = Run(sweep_spec({"lr": [DIVERGES, 2 * DIVERGES]}))
    sink = FolderSink(tmp_path)
    with pytest.raises(DivergedError, match="every member diverged") as caught:
        list(run.start().run(sink, lambda: False))
    for name in run.alone:
        assert f"{name}: step" in caught.value.message
    assert caught.value.remedy
    assert sink.steps == []


def test_the_memory_of_one_that_diverged_is_free(tmp_path: Path) -> None:
    sweep = Run(sweep_spec({"lr": [1e-3, DIVERGES]})).start()
    W_enc = weakref.ref(sweep.trainers["tiny-lr1e30"].state.params["W_enc"])
    until(sweep, FolderSink(tmp_path), 5)
    assert list(sweep.lost) == ["tiny-lr1e30"]
    assert W_enc() is None


def edit(folder: Path, **changes: object) -> None:
    path = folder / SWEEP_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "has format 2; this release reads 1"),
        ({"members": ["tiny-k2"]}, "is of the members"),
        ({"step": "five"}, "cannot be read"),
        ({"lost": {}, "surplus": 1}, "cannot be read"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    run = Run(sweep_spec({"k": [2, 4]}))
    until(run.start(), FolderSink(tmp_path), 3)
    edit(tmp_path / "3", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        run.resume(tmp_path / "3")
    assert caught.value.remedy


def test_a_checkpoint_that_lacks_a_member_is_refused(tmp_path: Path) -> None:
    run = Run(sweep_spec({"k": [2, 4]}))
    until(run.start(), FolderSink(tmp_path), 3)
    (tmp_path / "3" / "tiny-k4" / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"tiny-k4.*state\.safetensors"):
        run.resume(tmp_path / "3")
    (tmp_path / "3" / SWEEP_FILE).unlink()
    with pytest.raises(CheckpointError, match=SWEEP_FILE):
        run.resume(tmp_path / "3")
