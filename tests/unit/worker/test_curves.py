"""Curves of real training jobs: killed, resumed, cancelled, of sweeps; read back by TensorBoard."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.fakes.workshop import STEPS, Workshop

from saeserve.client.curves import CurvePoint, read_curves
from saeserve.jobs.layout import curves_key
from saeserve.worker import curves
from saeserve.worker.order import ExitCode
from saeserve.worker.report import Report

REPORTS = list(range(5, STEPS + 1, 5))


@pytest.fixture(autouse=True)
def data(shop: Workshop) -> None:
    shop.planted()


def kept(shop: Workshop, job: str, epoch: int = 1) -> Path:
    return shop.bench.ledger.store.path(curves_key(job, epoch))


def rows(shop: Workshop, job: str, epoch: int = 1) -> list[CurvePoint]:
    return read_curves((kept(shop, job, epoch) / "metrics.csv").read_bytes())


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run."""
    # The library has no types.
    reader: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    seen = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    seen.Reload()
    names: list[str] = seen.Tags()["scalars"]
    return {name: [(each.step, each.value) for each in seen.Scalars(name)] for name in names}


def test_a_job_keeps_every_report_for_spreadsheets_and_tensorboard(shop: Workshop) -> None:
    assert shop.train("j-1") is ExitCode.FINISHED
    found = rows(shop, "j-1")
    assert [(point.model, point.step) for point in found] == [("m", step) for step in REPORTS]
    assert {"loss", "fvu", "l0", "dead", "lr", "grad_norm"} <= set(found[0].values)
    shown = scalars(kept(shop, "j-1") / "tensorboard/m")
    assert shown.keys() == {"tokens", *found[0].values}
    for name in found[0].values:
        expected = [(point.step, pytest.approx(point.values[name], rel=1e-6)) for point in found]
        assert shown[name] == expected
    assert shown["tokens"] == [(point.step, point.tokens) for point in found]


def test_after_a_stop_the_next_attempt_has_the_whole_curve_once(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.train("j-calm")
    with monkeypatch.context() as patch:
        shop.stop_at(15, patch)
        assert shop.train("j-1") is ExitCode.STOPPED
    assert [point.step for point in rows(shop, "j-1")][-1] == 15
    shop.stop.clear()
    assert shop.run("j-1") is ExitCode.FINISHED
    found = rows(shop, "j-1", 2)
    assert [point.step for point in found] == REPORTS
    assert {point.attempt for point in found} == {1, 2}
    for name in ("loss", "fvu", "l0", "dead", "lr"):
        calm = [point.values[name] for point in rows(shop, "j-calm")]
        assert [point.values[name] for point in found] == calm


def test_steps_that_are_taken_again_after_a_kill_stand_once(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dying(report: Report, *args: object, **named: object) -> None:
        tell(report, *args, **named)  # type: ignore[arg-type]
        if args[0] == 25:
            raise Killed

    tell = Report.metrics
    with monkeypatch.context() as patch:
        patch.setattr(Report, "metrics", dying)
        patch.setattr("saeserve.worker.runners.train.keep_curves", Mock())
        with pytest.raises(Killed):
            shop.train("j-1")
    assert [e.step for e in shop.events("j-1") if e.type == "metrics"][-1] == 25
    assert not kept(shop, "j-1").exists()
    assert shop.run("j-1") is ExitCode.FINISHED
    found = rows(shop, "j-1", 2)
    assert [point.step for point in found] == REPORTS
    assert [point.attempt for point in found] == [1] * 4 + [2] * 4
    assert [step for step, _ in scalars(kept(shop, "j-1", 2) / "tensorboard/m")["fvu"]] == REPORTS


def test_each_member_of_a_sweep_has_its_own(shop: Workshop) -> None:
    assert shop.train("j-1", sweep={"lr": [1e-3, 1e30, 3e-3]}) is ExitCode.FINISHED
    found = rows(shop, "j-1")
    assert [(point.model, point.step) for point in found] == [
        (model, step) for model in ("m-lr0.001", "m-lr0.003") for step in REPORTS
    ]
    runs = kept(shop, "j-1") / "tensorboard"
    assert sorted(run.name for run in runs.iterdir()) == ["m-lr0.001", "m-lr0.003"]
    last = found[-1]
    assert scalars(runs / "m-lr0.003")["l0"][-1] == (
        STEPS,
        pytest.approx(last.values["l0"], rel=1e-6),
    )


def test_a_full_disk_costs_the_curves_and_not_the_model(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(curves, "write_run", full)
    assert shop.train("j-1") is ExitCode.FINISHED
    assert shop.model("m").version == 1
    assert "its curves are not kept" in caplog.text
    assert [each.name for each in kept(shop, "j-1").parent.glob("*metrics*")] == []


def test_a_superseded_attempt_keeps_none(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        shop.stop_at(15, patch)
        shop.bench.submit("j-1", kind="train", resolved_spec={"train": shop.train_spec()})
        order = shop.claim("j-1")
        claim = curves.curves

        def overtaken(*args: object) -> object:
            shop.bench.ledger.claim("j-1", "w2", 0.0)
            return claim(*args)  # type: ignore[arg-type]

        patch.setattr(curves, "curves", overtaken)
        from saeserve.worker import job_process

        job_process.run(order, shop.stop)
    assert not kept(shop, "j-1").exists()
