"""target_l0 where a run differs: micro-batches, transcoders, crosscoders, continued models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.forms import FORMS, form_setup, form_spec
from tests.fakes.training import FolderSink, run_all, tiny_setup, tiny_spec

from saeserve.core.training.events import Warned
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import Trainer

TARGET = 4.0
STEPS = 600
ROWS = 128
CONTROLLED: dict[str, dict[str, Any]] = {
    "relu": {"decoder_norm": 0.5},
    "gated": {},
    "jumprelu": {},
    "batchtopk": {},
}
EVERY = pytest.mark.parametrize("name", sorted(CONTROLLED))


def asked(name: str, **changes: object) -> dict[str, Any]:
    whole: dict[str, object] = {
        name: CONTROLLED[name],
        "target_l0": TARGET,
        "tokens": STEPS * ROWS,
        "batch_size": ROWS,
        "optimizer": {"lr": 3e-3},
        "log_every_steps": 20,
        "checkpoint_every_steps": 10_000,
    }
    return whole | changes


def found_l0(setup: TrainingSetup, tmp_path: Path) -> float:
    """Of a whole run, which must have nothing to warn of, on rows that it has not seen."""
    trainer = Trainer.start(setup)
    events = run_all(trainer, FolderSink(tmp_path))
    assert [event.code for event in events if isinstance(event, Warned) and event.step > 0] == []
    raw = [setup.source.batch(2**30 + i * ROWS, ROWS) for i in range(64)]
    unseen = [setup.preprocessing.apply(rows) for rows in raw]
    judged = trainer.judged(trainer.form(), unseen)
    assert judged.warnings() == ()
    return judged.l0


@EVERY
def test_micro_batches_are_one_batch_to_the_controller(name: str, tmp_path: Path) -> None:
    spec = tiny_spec(name, **asked(name, micro_batch_size=ROWS // 4))
    assert found_l0(tiny_setup(spec), tmp_path) == pytest.approx(TARGET, rel=0.05)


@pytest.mark.parametrize("form", FORMS)
@EVERY
def test_transcoders_and_crosscoders_have_the_l0_that_was_asked_for(
    name: str, form: str, tmp_path: Path
) -> None:
    setup = form_setup(form_spec(name, form, **asked(name)), form)
    assert found_l0(setup, tmp_path) == pytest.approx(TARGET, rel=0.05)


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu"])
def test_a_continued_model_goes_from_the_l0_that_it_has(name: str, tmp_path: Path) -> None:
    """Here upwards: the path starts at the first run's L0, below the second's target."""
    spec = tiny_spec(name, **asked(name))
    first = Trainer.start(tiny_setup(spec))
    run_all(first, FolderSink(tmp_path / "first"))
    more = tiny_spec(name, **asked(name, target_l0=1.5 * TARGET))
    setup = replace(tiny_setup(more), initial=first.form())
    path = float(Trainer.start(setup).state.control["initial"].exp())
    assert path == pytest.approx(TARGET, rel=0.1)
    assert found_l0(setup, tmp_path / "more") == pytest.approx(1.5 * TARGET, rel=0.05)
