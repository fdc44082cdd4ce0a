"""Steps by kernels, whose replays read rates and numbers from memory, against steps as they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.fakes.lanes import LateLane
from tests.fakes.recorders import RerunRecorder
from tests.fakes.training import tiny_setup, tiny_spec

from saeserve.core.gpu import rows, shadows
from saeserve.core.training import stepper
from saeserve.core.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("nothing_compiled")

STEPS = 5
SPECS: dict[str, dict[str, Any]] = {
    "topk": {"k": 2, "k_aux": 4},
    "jumprelu": {"sparsity_coefficient": 20.0},
    "relu": {"sparsity_coefficient": 0.5, "sparsity_warmup_fraction": 1.0},
}


def started(name: str, recorder: RerunRecorder | None) -> Trainer:
    rest: dict[str, Any] = {"tokens": STEPS * 4, "batch_size": 4, "encoder_dtype": "bfloat16"}
    spec = tiny_spec(name, **rest, **{name: SPECS[name]})
    spec = spec.model_copy(update={"dead_window_tokens": 1})
    lane = LateLane(free=2**30)
    return Trainer.start(dataclasses.replace(tiny_setup(spec), lane=lane, recorder=recorder))


def trained(trainer: Trainer, steps: int = STEPS) -> dict[str, torch.Tensor]:
    for _ in range(steps):
        list(trainer.advance())
    return trainer.state.tensors()


@pytest.mark.parametrize("name", SPECS)
def test_recorded_steps_by_kernels_are_those_without(name: str) -> None:
    there = started(name, RerunRecorder(rates_type=torch.float32))
    found, wanted = trained(there), trained(started(name, None))
    assert [each for each in wanted if not torch.equal(found[each], wanted[each])] == []
    assert there.stepper.replays >= STEPS - stepper.WARM - 1


def test_what_a_replay_changed_is_known_and_its_copies_hold() -> None:
    state = started("topk", None).state
    weights = state.params["W_enc"]
    copy = rows.shadow_of(weights)
    before = shadows.version_of(weights), shadows.version_of(state.moments.first["W_enc"])
    shadows.written(state.params.values(), state.moments.first.values())
    after = shadows.version_of(weights), shadows.version_of(state.moments.first["W_enc"])
    assert all(new > old for new, old in zip(after, before, strict=True))
    assert copy.holds(weights)


def test_copies_that_are_out_of_date_are_made_again_before_a_replay() -> None:
    weights = started("topk", None).state.params["W_enc"]
    copy = rows.shadow_of(weights)
    weights.mul_(2)
    assert not copy.holds(weights)
    rows.renew([weights])
    assert copy.holds(weights)
    assert torch.equal(copy.low_FD, weights.to(shadows.LOW))
