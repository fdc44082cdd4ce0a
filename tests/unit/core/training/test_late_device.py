"""Training on a device that delivers late: what a GPU's run keeps to, shown on the CPU."""

from __future__ import annotations

import dataclasses
import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tests.fakes.lanes import LateLane
from tests.fakes.training import FolderSink, SlowSink, run_all, run_until, tiny_setup, tiny_spec

from saeserve.core.data.lane import HostLane
from saeserve.core.data.prepared import AsTheyAre, PreparedRows
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training import dead, flight, reports
from saeserve.core.training.events import (
    CheckpointCommitted,
    Finished,
    MetricsReported,
    TrainingEvent,
)
from saeserve.core.training.feed import Pace
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.sweep import OfMember, Sweep
from saeserve.core.training.trainer import Trainer
from saeserve.errors import DivergedError

WINDOW = 2 * 64
"""Of two batches, so that latents die and come back within a few steps."""


@pytest.fixture(autouse=True)
def _at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cadences of the spec, not of the clock."""
    monkeypatch.setattr(reports, "REPORT_S", 0.0)
    monkeypatch.setattr(reports, "CHECKPOINT_S", 0.0)


def dying(window: int = WINDOW, **changes: object) -> TrainSpec:
    spec = tiny_spec("topk", topk={"k": 2, "k_aux": 8}, **changes)
    return spec.model_copy(update={"dead_window_tokens": window})


def late_setup(spec: TrainSpec, lane: LateLane | None = None) -> TrainingSetup:
    return dataclasses.replace(tiny_setup(spec), lane=lane or LateLane(free=2**30))


def reported(events: list[TrainingEvent]) -> dict[int, dict[str, float]]:
    """What each step's report says, without what a clock says."""
    by_clock = {"tokens_per_second", "data_wait_fraction"}
    return {
        event.step: {name: value for name, value in event.values.items() if name not in by_clock}
        for event in events
        if isinstance(event, MetricsReported)
    }


def equal(one: Trainer, other: Trainer) -> bool:
    first, second = one.state.tensors(), other.state.tensors()
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu", "batchtopk", "matryoshka"])
def test_a_run_and_its_reports_are_those_of_the_cpu(name: str, tmp_path: Path) -> None:
    spec = tiny_spec(name, tokens=12 * 64, log_every_steps=3, micro_batch_size=32)
    spec = spec.model_copy(update={"dead_window_tokens": 10**6})
    lane = LateLane(free=2**30)
    late, plain = Trainer.start(late_setup(spec, lane)), Trainer.start(tiny_setup(spec))
    found = run_all(late, FolderSink(tmp_path / "a"))
    wanted = run_all(plain, FolderSink(tmp_path / "b"))
    assert reported(found) == reported(wanted)
    assert [step for step in reported(found)] == [3, 6, 9, 12]
    assert isinstance(found[-1], Finished)
    for group, value in plain.state.tensors().items():
        assert torch.equal(late.state.tensors()[group], value), group
    assert lane.faults == []


def test_a_run_resumed_at_any_step_is_the_undisturbed_one(tmp_path: Path) -> None:
    """With latents that die, whose bound decides how wide AuxK is."""
    spec = dying(tokens=10 * 64, log_every_steps=2)
    whole = Trainer.start(late_setup(spec))
    expected = reported(run_all(whole, FolderSink(tmp_path / "whole")))
    assert max(figures["dead"] for figures in expected.values()) > 3
    for step in range(1, 10):
        run_until(Trainer.start(late_setup(spec)), FolderSink(tmp_path / str(step)), step)
        resumed = Trainer.resume(late_setup(spec), tmp_path / str(step) / str(step))
        found = reported(run_all(resumed, FolderSink(tmp_path / f"{step}-on")))
        assert equal(resumed, whole), step
        assert found == {at: figures for at, figures in expected.items() if at > step}


def test_the_bound_is_never_below_the_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = dying(tokens=30 * 64, log_every_steps=10)
    trainer = Trainer.start(late_setup(spec))
    seen: list[tuple[int, int]] = []
    admit = flight.Flight.admit

    def watched(self: flight.Flight) -> int | None:
        counter_F = trainer.state.tokens_since_fired_or_resampled_F
        bound = admit(self)
        assert bound is not None
        seen.append((bound, int(dead.count(counter_F, spec.dead_window_tokens))))
        return bound

    monkeypatch.setattr(flight.Flight, "admit", watched)
    list(trainer.run(FolderSink(tmp_path), lambda: trainer.step == 29))
    assert len(seen) == 29
    assert all(bound >= count for bound, count in seen)
    assert max(count for _, count in seen) > 3
    assert any(bound < 48 for bound, _ in seen[2:])


def test_the_first_steps_leave_auxk_out_exactly() -> None:
    """No latent can be dead before a window has passed."""
    spec = dying(64 * 20)
    trainer = Trainer.start(late_setup(spec))
    bounds: list[int | None] = []
    taking = trainer._train_step  # pyright: ignore[reportPrivateUsage]

    def step(dead_bound: int | None) -> None:
        bounds.append(dead_bound)
        taking(dead_bound)

    trainer._train_step = step  # pyright: ignore[reportPrivateUsage]
    list(trainer.opening())
    for _ in range(20):
        list(trainer.advance())
    assert bounds[:19] == [0] * 19


def test_the_host_waits_for_the_step_before_the_last_and_not_for_the_last() -> None:
    spec = tiny_spec("topk", tokens=20 * 64, log_every_steps=100)
    lane = LateLane(late=10**9, free=2**30)
    trainer = Trainer.start(late_setup(spec, lane))
    ends: list[int] = []
    list(trainer.opening())
    for _ in range(10):
        list(trainer.advance())
        if len(ends) >= flight.STEPS:
            assert ends[-flight.STEPS] <= lane.work.done < ends[-1]
        ends.append(lane.work.queued)


def test_a_report_comes_later_with_its_own_step() -> None:
    spec = tiny_spec("topk", tokens=20 * 64, log_every_steps=4)
    trainer = Trainer.start(late_setup(spec, LateLane(late=10**9, free=2**30)))
    list(trainer.opening())
    came: list[tuple[int, int]] = []
    while trainer.step < 16:
        came += [(event.step, trainer.step) for event in trainer.advance()]
    came += [(event.step, trainer.step) for event in trainer.settle()]
    assert [step for step, _ in came] == [4, 8, 12, 16]
    assert all(0 < at - step <= 2 for step, at in came[:-1])


def test_reports_and_checkpoints_are_no_more_frequent_than_the_clock_allows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reports, "REPORT_S", 3600.0)
    monkeypatch.setattr(reports, "CHECKPOINT_S", 3600.0)
    spec = tiny_spec("topk", tokens=20 * 64, log_every_steps=2, checkpoint_every_steps=4)
    sink = FolderSink(tmp_path / "late")
    events = run_all(Trainer.start(late_setup(spec)), sink)
    assert (list(reported(events)), sink.steps) == ([20], [20])
    again = FolderSink(tmp_path / "cpu")
    events = run_all(Trainer.start(tiny_setup(spec)), again)
    assert (len(reported(events)), again.steps) == (10, [4, 8, 12, 16, 20])


def test_a_checkpoint_holds_its_step_though_training_goes_on(tmp_path: Path) -> None:
    spec = dying(tokens=12 * 64, checkpoint_every_steps=5)
    setup = late_setup(spec)
    trainer, sink = Trainer.start(setup), SlowSink(tmp_path / "slow")
    events: list[TrainingEvent] = []
    for event in trainer.run(sink, lambda: False):
        events.append(event)
        if trainer.step == 8:
            sink.may.set()
    committed = [event.step for event in events if isinstance(event, CheckpointCommitted)]
    assert committed == sink.steps
    assert (committed[0], committed[-1]) == (5, 12)
    assert sink.threads[0] is not threading.current_thread()
    assert sink.threads[-1] is threading.current_thread()
    order = [(type(event), event.step) for event in events]
    assert order.index((CheckpointCommitted, 5)) > order.index((MetricsReported, 6))
    resumed = Trainer.resume(setup, tmp_path / "slow" / "5")
    assert resumed.step == 5
    run_all(resumed, FolderSink(tmp_path / "on"))
    assert equal(resumed, trainer)


def test_what_a_commit_raises_ends_the_run(tmp_path: Path) -> None:
    spec = tiny_spec("topk", checkpoint_every_steps=5)
    sink = SlowSink(tmp_path)
    sink.error = PermissionError("fenced")
    sink.may.set()
    with pytest.raises(PermissionError, match="fenced"):
        run_all(Trainer.start(late_setup(spec)), sink)
    assert sink.steps == []


def test_a_state_that_is_not_finite_is_not_committed_by_the_thread_either(tmp_path: Path) -> None:
    spec = tiny_spec("topk", tokens=40 * 64, log_every_steps=1000, checkpoint_every_steps=5)
    trainer, sink = Trainer.start(late_setup(spec)), FolderSink(tmp_path)
    trainer.state.moments.second["b_enc"][0] = torch.inf
    with pytest.raises(DivergedError, match="step 5: a parameter or moment is not finite"):
        run_all(trainer, sink)
    assert sink.steps == []


def test_without_room_for_a_copy_checkpoints_are_waited_for(tmp_path: Path) -> None:
    spec = tiny_spec("topk", tokens=10 * 64, checkpoint_every_steps=5)
    sink = SlowSink(tmp_path)
    sink.may.set()
    run_all(Trainer.start(late_setup(spec, LateLane(free=1000))), sink)
    assert sink.steps == [5, 10]
    assert set(sink.threads) == {threading.current_thread()}


def test_a_run_that_is_stopped_or_left_waits_for_what_is_written(tmp_path: Path) -> None:
    spec = tiny_spec("topk", checkpoint_every_steps=5)
    trainer, sink = Trainer.start(late_setup(spec)), SlowSink(tmp_path)
    with closing(trainer.run(sink, lambda: False)) as events:
        while trainer.step < 7:
            next(events)
        threading.Timer(0.2, sink.may.set).start()
    assert sink.steps == [5]


@pytest.mark.parametrize("lane", [HostLane(), LateLane(free=2**30)])
def test_the_time_of_a_checkpoint_is_not_part_of_the_reported_rate(
    lane: HostLane | LateLane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one is waited for on any device: a run that is resumed after it would report it."""
    left_out: list[object] = []
    spec = tiny_spec("topk", tokens=8 * 64, checkpoint_every_steps=4)
    setup = dataclasses.replace(tiny_setup(spec), lane=lane)
    trainer = Trainer.start(setup)
    monkeypatch.setattr(trainer.pace, "leave_out", left_out.append)
    run_all(trainer, FolderSink(tmp_path))
    assert len(left_out) == 2


def test_a_stretch_does_not_count_what_is_left_out() -> None:
    lane = LateLane()
    rows = PreparedRows(tiny_setup(tiny_spec("topk")).source, AsTheyAre(), lane)
    pace = Pace(rows)
    since = lane.mark()
    since.time -= 50.0
    pace._began = dataclasses.replace(since, time=since.time - 10.0)  # pyright: ignore[reportPrivateUsage]
    pace.leave_out(since)
    assert pace.values(100.0)["tokens_per_second"] == pytest.approx(10.0, rel=1e-2)


def test_members_of_a_sweep_report_the_same_steps(tmp_path: Path) -> None:
    lane = LateLane(free=2**30)
    plain = tiny_setup(tiny_spec("topk"))
    rows = PreparedRows(plain.source, plain.preprocessing, lane)
    spec = dying(tokens=12 * 64, log_every_steps=3)
    setups = {
        f"seed{seed}": dataclasses.replace(
            plain,
            spec=spec.model_copy(update={"seed": seed}),
            source=rows,
            preprocessing=AsTheyAre(),
            lane=lane,
        )
        for seed in (1, 2)
    }
    sweep = Sweep.start(rows, setups)
    events = list(sweep.run(FolderSink(tmp_path), lambda: False))
    for name, setup in setups.items():
        steps = [
            each.event.step for each in events if isinstance(each, OfMember) and each.member == name
        ]
        assert steps == [3, 6, 9, 12]
        alone_setup = dataclasses.replace(plain, spec=setup.spec, lane=LateLane(free=2**30))
        alone = Trainer.start(alone_setup)
        run_all(alone, FolderSink(tmp_path / name / "alone"))
        assert equal(alone, sweep.trainers[name])
    assert lane.faults == []
