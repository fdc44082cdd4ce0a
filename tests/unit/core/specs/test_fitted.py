"""Defaults fitted to the run: what a spec of an architecture and a width becomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.planning.before_run import warnings_before
from saeserve.core.planning.sizes import TrainingData
from saeserve.core.specs import fitted
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.training import TrainSpec, resolve

EVERY = pytest.mark.parametrize("name", sorted(ARCHITECTURE_SPECS))


def default(
    name: str, tokens: int, d_sae: int = 1024, d_in: int = 256, **more: object
) -> TrainSpec:
    known: dict[str, object] = {"dataset": "a", "model": "m", name: {}}
    fields = known | {"d_sae": d_sae, "tokens": tokens} | more
    return resolve(TrainSpec.parse(fields, "train"), d_in, "x")


@pytest.mark.parametrize(
    ("tokens", "batch"), [(200_000, 256), (10**6, 512), (10**7, 2048), (10**8, 4096)]
)
@EVERY
def test_defaults_leave_enough_steps_at_every_length(name: str, tokens: int, batch: int) -> None:
    spec = default(name, tokens, d_sae=4608, d_in=576)
    assert spec.batch_size == spec.micro_batch_size == batch
    assert spec.steps > 700
    assert spec.optimizer.warmup_steps == spec.steps // 20
    rows = TrainingData(d=576, train_rows=tokens, heldout_rows=2000, shard_rows=1000)
    assert warnings_before(spec, rows) == ()
    assert resolve(TrainSpec.parse(spec.to_json(), "train"), 576, "x") == spec


@given(st.sampled_from(sorted(ARCHITECTURE_SPECS)), st.integers(1, 10**10))
def test_every_number_of_tokens_can_take_a_step(name: str, tokens: int) -> None:
    spec = default(name, tokens, d_sae=64, d_in=16)
    assert spec.steps >= 1
    assert spec.batch_size & (spec.batch_size - 1) == 0


@EVERY
def test_rates_fall_with_width_and_length(name: str) -> None:
    peak = ARCHITECTURE_SPECS[name].learning_rate
    rate = fitted.rate_of(peak, 256, 1024, 1000)
    assert rate == pytest.approx(peak / 16)
    assert fitted.rate_of(peak, 1024, 1024, 1000) == pytest.approx(rate / 2)
    assert fitted.rate_of(peak, 256, 16_384, 1000) == pytest.approx(rate / 2)
    assert fitted.rate_of(peak, 256, 1024, 8000) == pytest.approx(rate / 2)


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu"])
def test_a_penalty_without_weight_or_target_is_aimed_at_the_usual_l0(name: str) -> None:
    assert default(name, 10**6).target_l0 == 32
    assert default(name, 10**6, d_sae=128).target_l0 == 8
    assert default(name, 10**6, target_l0=9).target_l0 == 9
    weight: dict[str, object] = {name: {"sparsity_coefficient": 5.0}}
    known: dict[str, object] = {"dataset": "a", "model": "m", "d_sae": 1024, "tokens": 10**6}
    assert resolve(TrainSpec.parse(known | weight, "train"), 256, "x").target_l0 is None


def test_what_is_set_is_kept_and_a_batch_is_whole_micro_batches() -> None:
    own = default("topk", 10**6, batch_size=100, optimizer={"lr": 0.5, "warmup_steps": 0})
    assert (own.batch_size, own.optimizer.lr, own.optimizer.warmup_steps) == (100, 0.5, 0)
    assert default("topk", 10**6, micro_batch_size=100).batch_size == 500
