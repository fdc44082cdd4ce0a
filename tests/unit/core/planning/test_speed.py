"""Predictions by hand: the arithmetic from finished jobs to other shapes."""

from __future__ import annotations

import pytest

from saeserve.core.planning.machine import Fleet, Machine, SpeedRecord
from saeserve.core.planning.plan import plan_members
from saeserve.core.planning.sizes import TrainingData, parameters_of
from saeserve.core.planning.speed import (
    ACCUMULATION,
    CPU,
    NEAREST,
    cost,
    seconds_per_step,
    shape_of,
    training_seconds,
)
from saeserve.core.specs.training import TrainSpec, resolve

D, F, B = 512, 4096, 1024
DATA = TrainingData(d=D, train_rows=50_000, heldout_rows=5_000, shard_rows=16_384)
PRODUCT = 2 * D * F
TOOK = 0.5


def spec(**changes: object) -> TrainSpec:
    values: dict[str, object] = {
        "dataset": "acts",
        "model": "sae",
        "topk": {"k": 32},
        "d_sae": F,
        "tokens": 1_024_000,
        "batch_size": B,
        "encoder_dtype": "float32",
    }
    return resolve(TrainSpec.parse(values | changes, "train"), D, "x")


def record(run: TrainSpec, seconds: float = TOOK, job: str = "j-1") -> SpeedRecord:
    return SpeedRecord(job=job, shape=shape_of(run, DATA), seconds_per_step=seconds)


def machine(*records: SpeedRecord, memory_bytes: int = 2**34, kind: str = "m") -> Machine:
    return Machine(kind=kind, memory_bytes=memory_bytes, records=records)


TOPK = machine(record(spec()))


def seconds(run: TrainSpec, on: Machine = TOPK) -> float:
    found = seconds_per_step(run, DATA, on, accelerated=False)
    assert found is not None
    return found


def nominal(run: TrainSpec) -> float:
    return cost(shape_of(run, DATA), CPU)


def test_the_same_job_takes_what_it_took() -> None:
    assert seconds(spec()) == pytest.approx(TOOK)
    assert seconds(spec(tokens=4_096_000)) == pytest.approx(TOOK)


def test_a_step_costs_products_numbers_and_the_optimiser() -> None:
    numbers = F + 0.2 * 32 * D
    row = PRODUCT / CPU.float32_flops + numbers * CPU.number_s
    moved = parameters_of(spec(), DATA) * CPU.parameter_s
    assert nominal(spec()) == pytest.approx(B * row + moved)


def test_another_shape_is_scaled_by_its_cost() -> None:
    for run in (spec(d_sae=2 * F), spec(batch_size=256), spec(topk={"k": 64})):
        assert seconds(run) == pytest.approx(TOOK * nominal(run) / nominal(spec()))
    assert 1.8 * TOOK < seconds(spec(d_sae=2 * F)) < 2.2 * TOOK


def test_a_faster_product_shortens_the_product_alone() -> None:
    low = spec(encoder_dtype="bfloat16")
    saved = B * PRODUCT * (1 / CPU.float32_flops - 1 / CPU.bfloat16_flops)
    assert nominal(spec()) - nominal(low) == pytest.approx(saved)


def test_auto_is_the_type_that_the_run_will_have() -> None:
    """ReLU's choice would be rounded, so it stays in float32; TopK's is made exact."""
    relu, asked = (spec(topk=None, relu={}, encoder_dtype=d) for d in ("float32", "auto"))
    assert nominal(asked) == nominal(relu)
    low = nominal(spec(encoder_dtype="bfloat16"))
    assert nominal(spec(encoder_dtype="auto")) == low < nominal(spec())


def test_micro_batches_add_their_sums() -> None:
    more = nominal(spec(micro_batch_size=256)) - nominal(spec())
    assert more == pytest.approx(3 * ACCUMULATION * parameters_of(spec(), DATA) * CPU.parameter_s)


def test_one_slow_job_among_several_does_not_rule() -> None:
    took = [0.5, 0.52, 5.0]
    on = machine(*(record(spec(), each, f"j-{n}") for n, each in enumerate(took)))
    assert seconds(spec(), on) == pytest.approx(0.52)


def test_jobs_of_the_nearest_cost_count() -> None:
    near = [record(spec(), TOOK, f"j-{n}") for n in range(NEAREST)]
    far = [record(spec(d_sae=16 * F), 100.0, f"k-{n}") for n in range(NEAREST)]
    assert seconds(spec(), machine(*far, *near)) == pytest.approx(TOOK)


def test_what_did_not_run_is_not_predicted() -> None:
    relu = spec(topk=None, relu={})
    assert seconds_per_step(relu, DATA, TOPK, accelerated=False) is None
    assert training_seconds((spec(), relu), DATA, TOPK, accelerated=False) is None


def test_on_an_accelerator_launches_cost_as_well() -> None:
    small = seconds_per_step(spec(batch_size=64), DATA, TOPK, accelerated=True)
    assert small is not None
    assert small > 0.5 * TOOK


def test_a_plan_tells_speed_and_time_of_the_slowest_machine_that_fits() -> None:
    slow = machine(record(spec(), 4 * TOOK), kind="slow")
    tiny = machine(record(spec(), 400 * TOOK), memory_bytes=2**20, kind="tiny")
    plan = plan_members((spec(),), DATA, Fleet(machines=(TOPK, slow, tiny)))
    assert plan.seconds == pytest.approx(1000 * 4 * TOOK)
    assert plan.tokens_per_second == pytest.approx(1_024_000 / (1000 * 4 * TOOK))
    assert (plan.machine_memory_bytes, plan.refusal) == (2**34, None)
    notes = " | ".join(plan.notes)
    assert "1 of 3 workers of class cpu" in notes
    assert "speed is scaled from 1 finished topk job on slow" in notes


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


def test_a_machine_that_ran_nothing_yet_still_tells_its_memory() -> None:
    plan = plan_members((spec(),), DATA, Fleet(machines=(machine(memory_bytes=2**20),)))
    assert plan.seconds is None
    assert plan.refusal is not None
    assert plan.machine_memory_bytes == 2**20
    assert "no topk job has finished on m yet" in plan.notes[-1]
