"""Predictions by hand: the arithmetic from measured steps to other shapes."""

from __future__ import annotations

import pytest

from saeserve.core.specs.machine import Fleet, Machine, StepTiming
from saeserve.core.specs.memory import plan_members
from saeserve.core.specs.sizes import TrainingData, parameter_count
from saeserve.core.specs.speed import ACCUMULATION, seconds_per_step, training_seconds
from saeserve.core.specs.training import TrainSpec, resolve

D, F = 512, 4096
DATA = TrainingData(d=D, train_rows=50_000, heldout_rows=5_000, shard_rows=16_384)
PRODUCT = 2 * D * F


def timing(architecture: str, seconds_per_row: float, active: float = 32.0) -> StepTiming:
    return StepTiming(
        architecture=architecture,
        d_in=D,
        d_sae=F,
        active=active,
        encoder_dtype="float32",
        seconds_per_row=seconds_per_row,
        seconds_per_step=0.01,
    )


def machine(*timings: StepTiming, memory_bytes: int = 2**34, name: str = "m") -> Machine:
    return Machine(
        fingerprint="f",
        name=name,
        memory_bytes=memory_bytes,
        float32_flops=1e11,
        bfloat16_flops=4e11,
        adam_bytes_per_second=2e10,
        timings=timings,
    )


TOPK = machine(timing("topk", 1e-4))


def spec(**changes: object) -> TrainSpec:
    values: dict[str, object] = {
        "dataset": "acts",
        "model": "sae",
        "topk": {"k": 32},
        "d_sae": F,
        "tokens": 1_024_000,
        "batch_size": 1024,
        "encoder_dtype": "float32",
    }
    return resolve(TrainSpec.parse(values | changes, "train"), D, "x")


def seconds(run: TrainSpec, on: Machine = TOPK, data: TrainingData = DATA) -> float:
    found = seconds_per_step(run, data, on)
    assert found is not None
    return found


def test_the_measured_shape_takes_what_was_measured() -> None:
    assert seconds(spec()) == pytest.approx(1024 * 1e-4 + 0.01)
    assert seconds(spec(batch_size=256)) == pytest.approx(256 * 1e-4 + 0.01)


def test_a_faster_product_shortens_the_product_alone() -> None:
    product = PRODUCT / 1e11
    rest = 1e-4 - product
    low = spec(encoder_dtype="bfloat16")
    assert seconds(low) == pytest.approx(1024 * (product / 4 + rest) + 0.01)


def test_auto_is_the_type_that_the_run_will_have() -> None:
    """ReLU's choice would be rounded, so it stays in float32; TopK's is made exact."""
    on = machine(timing("topk", 1e-4), timing("relu", 1e-4))
    relu, asked = (spec(topk=None, relu={}, encoder_dtype=d) for d in ("float32", "auto"))
    assert seconds(asked, on) == seconds(relu, on)
    low = seconds(spec(encoder_dtype="bfloat16"), on)
    assert seconds(spec(encoder_dtype="auto"), on) == low < seconds(spec(), on)


def test_twice_the_latents_double_the_product_and_the_optimiser() -> None:
    product = PRODUCT / 1e11
    grown = (2 * F + 0.2 * 32 * D) / (F + 0.2 * 32 * D)
    row = 2 * product + (1e-4 - product) * grown
    moved = parameter_count("topk", D, 2 * F) / parameter_count("topk", D, F)
    assert seconds(spec(d_sae=2 * F)) == pytest.approx(1024 * row + 0.01 * moved)


def test_more_active_latents_cost_gathers() -> None:
    product = PRODUCT / 1e11
    grown = (F + 0.2 * 64 * D) / (F + 0.2 * 32 * D)
    row = product + (1e-4 - product) * grown
    assert seconds(spec(topk={"k": 64})) == pytest.approx(1024 * row + 0.01)


def test_micro_batches_add_their_sums() -> None:
    whole, parts = seconds(spec()), seconds(spec(micro_batch_size=256))
    assert parts - whole == pytest.approx(0.01 * ACCUMULATION * 3)


def test_a_measurement_faster_than_its_products_scales_as_they_do() -> None:
    quick = machine(timing("topk", 1e-6))
    assert seconds(spec(d_sae=2 * F), quick) > 1024 * 2e-6


def test_what_was_not_measured_is_not_predicted() -> None:
    assert seconds_per_step(spec(topk=None, relu={}), DATA, TOPK) is None
    assert training_seconds((spec(), spec(topk=None, relu={})), DATA, TOPK) is None


def test_a_plan_tells_speed_and_time_of_the_slowest_machine_that_fits() -> None:
    slow = machine(timing("topk", 4e-4), name="slow")
    tiny = machine(timing("topk", 4e-2), memory_bytes=2**20, name="tiny")
    plan = plan_members((spec(),), DATA, Fleet(machines=(TOPK, slow, tiny)))
    expected = 1000 * (1024 * 4e-4 + 0.01)
    assert plan.seconds == pytest.approx(expected)
    assert plan.tokens_per_second == pytest.approx(1_024_000 / expected)
    assert (plan.machine_memory_bytes, plan.refusal) == (2**34, None)
    notes = " | ".join(plan.notes)
    assert "1 of 3 workers of class cpu" in notes
    assert "measured on slow" in notes


def test_members_step_in_turn() -> None:
    fleet = Fleet(machines=(TOPK,))
    one, two = (plan_members((spec(),) * n, DATA, fleet) for n in (1, 2))
    assert one.seconds is not None
    assert two.seconds == pytest.approx(2 * one.seconds)
    assert two.tokens_per_second == pytest.approx(one.tokens_per_second)
    assert two.parameters == 2 * one.parameters


def test_without_workers_nothing_is_predicted_and_the_plan_says_so() -> None:
    plan = plan_members((spec(),), DATA, Fleet(resource_class="gpu"))
    assert (plan.seconds, plan.tokens_per_second, plan.machine_memory_bytes) == (None, None, None)
    assert plan.notes[0].startswith("no worker of class gpu")


def test_a_machine_that_has_not_measured_yet_still_tells_its_memory() -> None:
    plan = plan_members((spec(),), DATA, Fleet(machines=(machine(memory_bytes=2**20),)))
    assert plan.seconds is None
    assert plan.refusal is not None
    assert plan.machine_memory_bytes == 2**20
