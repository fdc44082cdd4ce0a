"""Warnings before a run: each where its condition holds, and none for a sound run."""

from __future__ import annotations

from typing import Any

import pytest

from saeserve.core.planning.before_run import travel_of, warnings_before, warnings_of_job
from saeserve.core.planning.sizes import TrainingData
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.core.training.schedules import learning_rate

DATA = TrainingData(d=256, train_rows=1_000_000, heldout_rows=10_000, shard_rows=16_384)
SOUND: dict[str, Any] = {
    "dataset": "acts",
    "model": "m",
    "topk": {},
    "d_sae": 1024,
    "tokens": 1_000_000,
    "batch_size": 1000,
    "optimizer": {"lr": 1e-3},
}
RELU = {"topk": None, "relu": {"sparsity_coefficient": 5.0}}
TANH = {"topk": None, "jumprelu": {"sparsity_coefficient": 20.0}}


def of(**changes: object) -> TrainSpec:
    return resolve(TrainSpec.parse(SOUND | changes, "train"), DATA.d, "x")


def codes(spec: TrainSpec, data: TrainingData | None = DATA) -> list[str]:
    return [warning.code for warning in warnings_before(spec, data)]


def test_a_sound_run_has_none() -> None:
    assert codes(of()) == []
    assert codes(of(topk=None, jumprelu={}, target_l0=32)) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"batch_size": 5001}, "TOO_FEW_STEPS"),
        ({"optimizer": {"lr": 9e-5}}, "TOO_FEW_STEPS"),
        ({"optimizer": {"lr": 1e-3, "warmup_steps": 501}}, "WARMUP_TOO_LONG"),
        ({"optimizer": {"lr": 1e-3, "warmup_steps": 10**6}}, "WARMUP_TOO_LONG"),
        ({"tokens": 4_000_001}, "EPOCHS"),
        ({"tokens": 10**9, "batch_size": 1_000_001}, "BATCH_EXCEEDS_ROWS"),
        ({"eval_rows": 0}, "NOTHING_HELD_OUT"),
        ({"topk": {"k_aux": 1025}}, "K_AUX_TOO_LARGE"),
        ({"log_every_steps": 1001}, "LOG_EVERY_TOO_LARGE"),
        ({"topk": None, "jumprelu": {"sparsity_coefficient": 16.1}}, "PENALTY_TOO_STRONG"),
        ({"topk": None, "relu": {"sparsity_coefficient": 5.4}}, "PENALTY_TOO_STRONG"),
        ({"topk": None, "gated": {"sparsity_coefficient": 5.4}}, "PENALTY_TOO_STRONG"),
    ],
)
def test_what_looks_wrong_is_warned_of(changes: dict[str, Any], code: str) -> None:
    assert code in codes(of(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 5000},
        {"optimizer": {"lr": 2e-4}},
        {"optimizer": {"lr": 1e-3, "warmup_steps": 500}},
        {"tokens": 4_000_000},
        {"topk": {"k_aux": 1024}},
        {"log_every_steps": 1000},
        {"topk": None, "jumprelu": {"sparsity_coefficient": 16.0}},
        {"topk": None, "relu": {"sparsity_coefficient": 5.3}},
        {**TANH, "target_l0": 32},
    ],
)
def test_what_lies_just_inside_the_bounds_is_not(changes: dict[str, Any]) -> None:
    assert codes(of(**changes)) == []


def test_few_steps_name_steps_rate_and_the_batch_that_would_do() -> None:
    [warning, _] = warnings_before(of(tokens=200_000, batch_size=100_000), DATA)
    assert "2 steps" in warning.message
    assert "0.001" in warning.message
    assert "batch_size to 200" in warning.message


def test_nothing_held_out_says_whose_doing_it_is() -> None:
    empty = DATA.model_copy(update={"heldout_rows": 0})
    [ours] = warnings_before(of(eval_rows=0), DATA)
    [datas] = warnings_before(of(), empty)
    assert ours.code == datas.code == "NOTHING_HELD_OUT"
    assert "eval_rows" in ours.message
    assert "heldout_fraction" in datas.message


def test_a_penalty_is_measured_against_the_rows_own_units() -> None:
    """Rows of norm 1, as gemma-scope has them, are ruined by a weight of 1."""
    units = {"preprocess": {"mean_norm": 1.0}}
    strong = {"topk": None, "jumprelu": {"penalty": "l0", "sparsity_coefficient": 1.0}, **units}
    assert codes(of(**strong)) == ["PENALTY_TOO_STRONG"]
    unknown = TANH | {"preprocess": {"scale": False}}
    assert codes(of(**unknown)) == []
    narrow = DATA.model_copy(update={"d": 64})
    assert codes(of(**TANH), narrow) == codes(of(**RELU), narrow) == ["PENALTY_TOO_STRONG"]


def test_without_data_only_what_needs_no_rows_is_said() -> None:
    assert codes(of(eval_rows=0, tokens=10**8, **TANH), None) == []
    assert codes(of(tokens=50_000), None) == ["TOO_FEW_STEPS"]


@pytest.mark.parametrize(("warmup", "decay"), [(0, 0.0), (10, 0.2), (100, 1.0), (5000, 0.5)])
def test_travel_is_the_sum_of_the_rates(warmup: int, decay: float) -> None:
    """Ramps that overlap multiply; the sum then lies a little above."""
    rates = {"lr": 1e-3, "warmup_steps": warmup, "decay_fraction": decay}
    spec = of(optimizer=rates)
    total = sum(
        learning_rate(s, spec.steps, peak=1e-3, warmup_steps=warmup, decay_fraction=decay)
        for s in range(spec.steps)
    )
    assert travel_of(spec) == pytest.approx(total, rel=0.05, abs=0.26)


def test_a_warning_of_all_members_is_of_the_job_and_others_name_theirs() -> None:
    spec = TrainSpec.parse(
        {k: v for k, v in SOUND.items() if k != "optimizer"}
        | {"sweep": {"lr": [1e-5, 1e-3]}, "eval_rows": 0},
        "train",
    )
    members = [resolve(member, DATA.d, "x") for member in spec.members]
    found = {warning.code: warning.member for warning in warnings_of_job(members, DATA)}
    assert found == {"TOO_FEW_STEPS": "m-lr1e-05", "NOTHING_HELD_OUT": ""}
