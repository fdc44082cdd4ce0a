"""A sweep on a device that delivers late: checkpoints are written while the members train on."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.fakes.lanes import LateLane
from tests.fakes.training import FolderSink, SlowSink, run_all, tiny_setup, tiny_spec

from saeserve.core.data.prepared import AsTheyAre, PreparedRows
from saeserve.core.training import reports, sweep
from saeserve.core.training.events import CheckpointCommitted, Diverged, MetricsReported, Stopped
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.sweep import OfMember, Sweep, SweepEvent
from saeserve.core.training.trainer import Trainer
from saeserve.errors import DivergedError

NAMES = ("one", "two", "three")
ROOM = 2**30
STEPS = 14


@pytest.fixture(autouse=True)
def _at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cadences of the spec, not of the clock; turns of one step."""
    monkeypatch.setattr(reports, "REPORT_S", 0.0)
    monkeypatch.setattr(reports, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(sweep, "HELD_BYTES", 1)


class Run:
    """Members that differ in their seeds, on one lane."""

    def __init__(self, *, room: int = ROOM, log_every_steps: int = 1000) -> None:
        self.lane = LateLane(free=room)
        spec = tiny_spec(
            "topk",
            tokens=STEPS * 64,
            log_every_steps=log_every_steps,
            checkpoint_every_steps=5,
        )
        plain = tiny_setup(spec)
        self.rows = PreparedRows(plain.source, plain.preprocessing, self.lane)
        specs = {name: spec.model_copy(update={"seed": n}) for n, name in enumerate(NAMES)}
        self.alone = {
            name: dataclasses.replace(plain, spec=each, lane=LateLane(free=ROOM))
            for name, each in specs.items()
        }
        prepared = {"source": self.rows, "preprocessing": AsTheyAre(), "lane": self.lane}
        self.setups: dict[str, TrainingSetup] = {
            name: dataclasses.replace(setup, **prepared) for name, setup in self.alone.items()
        }
        self.sweep = Sweep.start(self.rows, self.setups)

    def until(self, sink: FolderSink, released: int, at: dict[int, Callable[[], object]]) -> Events:
        """Every event, each with the step that was reached; a slow `sink` commits once `released`
        steps are done. What `at` has for a step is called before the next one."""

        def looked() -> bool:
            if isinstance(sink, SlowSink) and self.sweep.step == released:
                sink.may.set()
                assert sink.ended.wait(60)
            at.pop(self.sweep.step, int)()
            return False

        return [(self.sweep.step, event) for event in self.sweep.run(sink, looked)]

    def poison(self, name: str) -> None:
        """From the next step on no number of the member is right."""
        self.sweep.trainers[name].state.params["b_enc"].fill_(torch.nan)

    def undisturbed(self, name: str, folder: Path) -> Trainer:
        trainer = Trainer.start(self.alone[name])
        run_all(trainer, FolderSink(folder))
        return trainer


Events = list[tuple[int, SweepEvent]]


def equal(one: Trainer, other: Trainer) -> bool:
    first, second = one.state.tensors(), other.state.tensors()
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


def ended(events: Events) -> dict[str, Diverged]:
    """The members that diverged; each ends once."""
    found = [
        (event.member, event.event)
        for _, event in events
        if isinstance(event, OfMember) and isinstance(event.event, Diverged)
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def committed(events: Events) -> list[tuple[int, int]]:
    """Steps of checkpoints, and how far the members were when each was reported."""
    return [(e.step, at) for at, e in events if isinstance(e, CheckpointCommitted)]


def test_a_checkpoint_holds_its_step_though_the_members_train_on(tmp_path: Path) -> None:
    run, sink = Run(), SlowSink(tmp_path / "slow")
    events = run.until(sink, 8, {})
    assert [step for step, _ in committed(events)] == sink.steps
    assert (sink.steps[0], sink.steps[-1]) == (5, STEPS)
    assert committed(events)[0][1] > 5
    assert sink.threads[0] is not threading.current_thread()
    assert sink.threads[-1] is threading.current_thread()
    resumed = Sweep.resume(run.rows, run.setups, tmp_path / "slow" / "5")
    assert resumed.step == 5
    list(resumed.run(FolderSink(tmp_path / "on"), lambda: False))
    for name in NAMES:
        whole = run.undisturbed(name, tmp_path / name)
        assert equal(run.sweep.trainers[name], whole)
        assert equal(resumed.trainers[name], whole)
    assert run.lane.faults == []


def test_only_one_is_written_at_a_time(tmp_path: Path) -> None:
    """The one of step 10 is left out while that of step 5 is written."""
    run, sink = Run(), SlowSink(tmp_path)
    events = run.until(sink, 12, {})
    assert [step for step, _ in committed(events)] == sink.steps == [5, STEPS]


def test_a_member_that_the_thread_finds_not_to_be_finite_is_out_as_of_that_step(
    tmp_path: Path,
) -> None:
    run, sink = Run(), SlowSink(tmp_path / "slow")
    events = run.until(sink, 8, {0: lambda: run.poison("two")})
    one = ended(events)["two"]
    assert (one.step, list(run.sweep.lost)) == (5, ["two"])
    assert one.message == "step 5: a parameter or moment is not finite"
    order = [event for _, event in events]
    [first, *_] = [event for event in order if isinstance(event, CheckpointCommitted)]
    assert order.index(OfMember("two", one)) < order.index(first)
    assert not (tmp_path / "slow" / "5" / "two").exists()
    resumed = Sweep.resume(run.rows, run.setups, tmp_path / "slow" / "5")
    assert resumed.lost["two"] == run.sweep.lost["two"]
    list(resumed.run(FolderSink(tmp_path / "on"), lambda: False))
    for name in ("one", "three"):
        whole = run.undisturbed(name, tmp_path / name)
        assert equal(run.sweep.trainers[name], whole)
        assert equal(resumed.trainers[name], whole)


def test_it_is_what_members_that_wait_say(tmp_path: Path) -> None:
    found: list[dict[str, Diverged]] = []
    for room in (ROOM, 0):
        run = Run(room=room)
        sink = SlowSink(tmp_path / str(room))
        if not room:
            sink.may.set()
        poison = partial(run.poison, "two")
        found.append(ended(run.until(sink, 8, {0: poison})))
    assert found[0] == found[1]
    assert list(found[0]) == ["two"]


def test_a_member_that_its_report_has_ended_does_not_end_twice(tmp_path: Path) -> None:
    run, sink = Run(log_every_steps=3), SlowSink(tmp_path)
    events = run.until(sink, 9, {3: lambda: run.poison("two")})
    one = ended(events)["two"]
    assert (one.step, one.message) == (6, "step 6: the loss is nan")
    assert run.sweep.lost["two"].step == 6
    resumed = Sweep.resume(run.rows, run.setups, tmp_path / "5")
    assert resumed.lost["two"].step == 5


def test_where_none_is_finite_nothing_is_committed(tmp_path: Path) -> None:
    run, sink = Run(), SlowSink(tmp_path)

    def poison() -> None:
        for name in NAMES:
            run.poison(name)

    with pytest.raises(DivergedError, match="every member diverged") as caught:
        run.until(sink, 8, {0: poison})
    for name in NAMES:
        assert f"{name}: step 5: a parameter or moment is not finite" in caught.value.message
    assert sink.steps == []


def test_what_a_commit_raises_ends_the_sweep(tmp_path: Path) -> None:
    run, sink = Run(), SlowSink(tmp_path)
    sink.error = PermissionError("fenced")
    with pytest.raises(PermissionError, match="fenced"):
        run.until(sink, 7, {})
    assert sink.steps == []


def test_without_room_for_copies_of_all_checkpoints_are_waited_for(tmp_path: Path) -> None:
    size = sum(t.nbytes for t in Run().sweep.trainers["one"].state.tensors().values())
    run, sink = Run(room=2 * size), SlowSink(tmp_path)
    sink.may.set()
    run.until(sink, STEPS, {})
    assert sink.steps == [5, 10, STEPS]
    assert set(sink.threads) == {threading.current_thread()}


def test_a_sweep_that_is_stopped_or_left_waits_for_what_is_written(tmp_path: Path) -> None:
    run, sink = Run(), SlowSink(tmp_path / "stopped")
    events = list(run.sweep.run(sink, lambda: run.sweep.step >= 6 and sink.may.set() is None))
    assert isinstance(events[-1], Stopped)
    assert sink.steps == [5, 6]
    run, left = Run(log_every_steps=1), SlowSink(tmp_path / "left")
    with closing(run.sweep.run(left, lambda: False)) as events_left:
        while run.sweep.step < 7:
            next(events_left)
        threading.Timer(0.2, left.may.set).start()
    assert left.steps == [5]


def test_reports_that_lead_to_a_checkpoint_come_before_it(tmp_path: Path) -> None:
    run = Run(log_every_steps=1)
    reported: list[int] = []
    for _, event in run.until(FolderSink(tmp_path), 0, {}):
        if isinstance(event, OfMember) and isinstance(event.event, MetricsReported):
            reported.append(event.event.step)
        elif isinstance(event, CheckpointCommitted):
            assert reported.count(event.step) == len(NAMES)
    assert sorted(reported) == sorted(list(range(1, STEPS + 1)) * len(NAMES))
