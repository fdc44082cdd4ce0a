"""target_l0: what is asked for is what the evaluation form has, for every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.training import (
    TINY,
    D,
    FolderSink,
    features_of,
    metric,
    run_all,
    run_until,
    tiny_setup,
    tiny_spec,
)

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.architectures.evaluation_form import reconstruction_of
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.core.training.events import MetricsReported, TrainingEvent, Warned
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import Trainer
from saeserve.errors import SpecError

TARGET = 4.0
STEPS = 600
CONTROLLED: list[tuple[str, dict[str, Any]]] = [
    ("relu", {"decoder_norm": 0.5}),
    ("relu", {"unit_norm": True}),
    ("gated", {}),
    ("jumprelu", {}),
    ("jumprelu", {"penalty": "l0"}),
    ("jumprelu", {"penalty": "quadratic"}),
    ("jumprelu", {"penalty": "l0", "frequency_scale": 0.5}),
]
CONTROLS = pytest.mark.parametrize(
    ("name", "fields"), CONTROLLED, ids=[f"{name}-{fields}" for name, fields in CONTROLLED]
)


def asked(name: str, fields: dict[str, Any], **changes: object) -> TrainSpec:
    whole: dict[str, object] = {
        name: fields,
        "target_l0": TARGET,
        "tokens": STEPS * 128,
        "batch_size": 128,
        "optimizer": {"lr": 3e-3},
        "log_every_steps": 20,
        "checkpoint_every_steps": 10_000,
    }
    return tiny_spec(name, **(whole | changes))


def fresh_l0(setup: TrainingSetup, form: EvaluationForm) -> float:
    """On rows that training has not seen."""
    x_BD = setup.preprocessing.apply(setup.source.batch(2**30, 8192))
    return float((features_of(form, x_BD) != 0).sum() / len(x_BD))


def reported(event: TrainingEvent) -> dict[str, float]:
    return event.values if isinstance(event, MetricsReported) else {}


def misses(events: list[TrainingEvent]) -> list[str]:
    return [event.code for event in events if isinstance(event, Warned) and event.step > 0]


@CONTROLS
def test_the_evaluation_form_has_the_l0_that_was_asked_for(
    name: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    setup = tiny_setup(asked(name, fields))
    trainer = Trainer.start(setup)
    events = run_all(trainer, FolderSink(tmp_path))
    assert fresh_l0(setup, trainer.form()) == pytest.approx(TARGET, rel=0.05)
    assert misses(events) == []
    assert metric(events, "fvu")[-1] < 0.5


@CONTROLS
def test_l0_follows_a_geometric_path_to_the_target_at_four_fifths(
    name: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    trainer = Trainer.start(tiny_setup(asked(name, fields)))
    start = float(trainer.state.control["initial"].exp())
    events = run_all(trainer, FolderSink(tmp_path))
    path, found = metric(events, "l0_path"), metric(events, "l0")
    half_way = path[STEPS * 2 // 5 // 20 - 1]
    assert half_way == pytest.approx((start * TARGET) ** 0.5, rel=1e-6)
    assert path[STEPS * 4 // 5 // 20 - 1 :] == pytest.approx([TARGET] * 7)
    away = [abs(l0 / wanted - 1) for l0, wanted in zip(found, path, strict=True)]
    assert max(away[len(away) * 4 // 5 :]) < 0.3


@CONTROLS
def test_a_resumed_run_has_the_same_controller_bit_for_bit(
    name: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    setup = tiny_setup(asked(name, fields, tokens=40 * 128))
    whole = Trainer.start(setup)
    run_all(whole, FolderSink(tmp_path / "whole"))
    run_until(Trainer.start(setup), FolderSink(tmp_path / "first"), 17)
    resumed = Trainer.resume(setup, tmp_path / "first" / "17")
    assert resumed.state.control.keys() == whole.state.control.keys() != set()
    run_all(resumed, FolderSink(tmp_path / "second"))
    for key, value in whole.state.tensors().items():
        assert torch.equal(value, resumed.state.tensors()[key]), key


@pytest.mark.parametrize("target", [3.0, 8.0])
def test_the_factor_is_higher_where_less_is_asked_for(target: float, tmp_path: Path) -> None:
    """The ramp that it replaces is not reported."""
    spec = asked("relu", {"decoder_norm": 0.5}, target_l0=target)
    events = run_all(Trainer.start(tiny_setup(spec)), FolderSink(tmp_path))
    assert (metric(events, "sparsity_factor")[-1] > 0.3) == (target == 3.0)
    assert not any("sparsity_coefficient" in reported(event) for event in events)


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka"])
def test_where_sparsity_is_a_k_the_target_is_that_k(name: str, tmp_path: Path) -> None:
    settings = {key: value for key, value in TINY[name].items() if key != "k"}
    setup = tiny_setup(asked(name, settings))
    k: float = getattr(setup.spec.architecture, "k")  # noqa: B009 - three specs have it
    assert k == TARGET
    trainer = Trainer.start(setup)
    assert trainer.state.control == {}
    events = run_all(trainer, FolderSink(tmp_path))
    assert fresh_l0(setup, trainer.form()) == pytest.approx(TARGET, rel=0.05)
    assert misses(events) == []


def test_a_calibration_that_bought_the_number_is_warned_of(tmp_path: Path) -> None:
    """The guards compare the forms: thresholds that let half as much through are found out."""
    trainer = Trainer.start(tiny_setup(asked("batchtopk", {"k_aux": 8}, tokens=200 * 128)))
    run_all(trainer, FolderSink(tmp_path))
    honest = trainer.judged(trainer.form())
    assert abs(honest.metrics()["l0_moved"]) < 0.15
    assert honest.metrics()["fvu_raised"] < 0.02
    assert honest.warnings() == ()
    trainer.state.architecture["threshold"] *= 3
    codes = [warning.code for warning in trainer.judged(trainer.form()).warnings()]
    assert codes == ["CALIBRATION_MOVED_L0", "CALIBRATION_RAISED_FVU"]


def test_held_out_rows_are_judged_whatever_blocks_they_come_in(tmp_path: Path) -> None:
    setup = tiny_setup(asked("gated", {}, tokens=20 * 128))
    trainer = Trainer.start(setup)
    run_all(trainer, FolderSink(tmp_path))
    x_BD = setup.preprocessing.apply(setup.source.batch(2**30, 500))
    form = trainer.form()
    one, many = trainer.judged(form, [x_BD]), trainer.judged(form, [x_BD[:7], x_BD[7:]])
    f_BF = features_of(form, x_BD)
    assert one.l0 == many.l0 == pytest.approx(float((f_BF != 0).sum()) / 500)
    error = (x_BD - reconstruction_of(form, x_BD, f_BF)).square().sum()
    assert one.fvu == pytest.approx(float(error / (x_BD - x_BD.mean(0)).square().sum()), rel=1e-4)
    assert many.fvu == pytest.approx(one.fvu, rel=1e-6)


def test_without_a_target_nothing_is_controlled() -> None:
    assert Trainer.start(tiny_setup(tiny_spec("relu"))).state.control == {}


def parse(**fields: object) -> TrainSpec:
    task = {"dataset": "d", "model": "m", "d_sae": 64, "tokens": 640, "batch_size": 64}
    return TrainSpec.parse({**task, **fields}, "train")


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"topk": {}, "target_l0": 65}, "train.target_l0", "65 exceeds d_sae = 64"),
        ({"topk": {}, "target_l0": 7.5}, "train.target_l0", "7.5 is not whole"),
        ({"topk": {"k": 8}, "target_l0": 7}, "train.target_l0", "asks for 7 and topk.k for 8"),
        ({"jumprelu": {"penalty": "quadratic"}}, "train.target_l0", "quadratic"),
        (
            {"relu": {"sparsity_coefficient": 0}, "target_l0": 7},
            "train.relu.sparsity_coefficient",
            "nothing could be controlled",
        ),
        ({"relu": {}, "target_l0": 0}, "train.target_l0", "greater than 0"),
    ],
)
def test_what_cannot_be_aimed_is_refused(
    fields: dict[str, object], field: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse(**fields)
    assert caught.value.field == field


def test_a_resolved_spec_resolves_to_itself() -> None:
    plain: dict[str, str] = {}
    settings = {"topk": plain, "batchtopk": plain, "jumprelu": {"penalty": "quadratic"}}
    for name, fields in settings.items():
        once = resolve(parse(**{name: fields}, target_l0=6), D, "s")
        again = TrainSpec.parse(once.to_json(), "train")
        assert resolve(again, D, "s") == once


def test_a_target_stands_in_place_of_a_presets_k() -> None:
    spec = parse(preset="batchtopk", target_l0=20.5)
    assert spec.batchtopk is not None
    assert resolve(spec, D, "s").architecture.model_dump()["k"] == 20.5


def test_jumprelu_starts_above_its_target() -> None:
    spec = resolve(parse(jumprelu={}, target_l0=12), 8, "s")
    assert spec.jumprelu is not None
    assert spec.jumprelu.initial_l0 == 24
