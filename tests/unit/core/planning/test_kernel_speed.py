"""Amounts of a step in a GPU's kernels, against those that were counted; and what plans make of
them."""

from __future__ import annotations

import pytest
from bench.gpu.budgets import table
from bench.gpu.budgets.steps import ARCHITECTURES, SHAPES, spec_of

from saeserve.core.planning import kernel_speed
from saeserve.core.planning.kernel_speed import HOST_S, amounts, seconds
from saeserve.core.planning.machine import Machine, SpeedRecord, StepShape
from saeserve.core.planning.sizes import TrainingData
from saeserve.core.planning.speed import ACCELERATOR, cost, cost_of, seconds_per_step, shape_of
from saeserve.core.specs.training import TrainSpec


def data_of(shape_name: str) -> TrainingData:
    return TrainingData(
        d=SHAPES[shape_name].d, train_rows=10**7, heldout_rows=8192, shard_rows=10**5
    )


def shape_at(shape_name: str, name: str) -> StepShape:
    return shape_of(spec_of(name, SHAPES[shape_name]), data_of(shape_name))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape_name", SHAPES)
def test_amounts_are_those_that_were_counted(shape_name: str, name: str) -> None:
    found = amounts(shape_at(shape_name, name))
    budget = table.read()[f"{shape_name} {name}"]
    counted = sum(budget["product_tflop"].values())
    assert found.product_flops / 1e12 == pytest.approx(counted, rel=0.01)
    assert found.bytes / 1e9 == pytest.approx(budget["gb"], rel=0.12)
    assert found.gathered / 1e9 == pytest.approx(budget["gathered_gb"], rel=0.08)


def test_a_record_of_the_same_shape_is_what_is_predicted() -> None:
    """A card may be faster or slower than the nominal one, by any factor."""
    spec, data = spec_of("jumprelu", SHAPES["S3"]), data_of("S3")
    assert predicted(spec, data, shape_of(spec, data), 0.123) == pytest.approx(0.123)


def test_wider_models_take_as_much_longer_as_their_work() -> None:
    """From S1, where the host's starts take longer than the device, to S2, where they do not."""
    small, large = shape_at("S1", "topk"), shape_at("S2", "topk")
    assert seconds(small) == HOST_S
    assert seconds(large) > 2 * HOST_S
    spec, data = spec_of("topk", SHAPES["S2"]), data_of("S2")
    assert predicted(spec, data, small, 0.01) == pytest.approx(0.01 * seconds(large) / HOST_S)


def test_a_record_of_plain_torch_says_by_how_much_the_card_differs() -> None:
    """A release without kernels left it; a step in kernels costs what that takes."""
    spec, data = spec_of("relu", SHAPES["S2"]), data_of("S2")
    now = shape_of(spec, data)
    written = {k: v for k, v in now.model_dump().items() if k not in ("kernels", "reconstructions")}
    before = StepShape.model_validate(written)
    assert (now.kernels, before.kernels) == (True, False)
    expected = 2 * seconds(now)
    assert predicted(spec, data, before, 2 * cost(before, ACCELERATOR)) == pytest.approx(expected)
    assert seconds(now) < cost(before, ACCELERATOR) / 5


def test_steps_that_autograd_takes_cost_plain_torchs_time() -> None:
    spec = spec_of("relu", SHAPES["S1"])
    revived = spec.architecture.model_copy(update={"auxk_coefficient": 0.03})
    shape = shape_of(spec.model_copy(update={"relu": revived}), data_of("S1"))
    assert not shape.kernels
    assert cost_of(shape, accelerated=True) == cost(shape, ACCELERATOR)


def test_float32_takes_its_own_rate_and_computes_nothing_again() -> None:
    low = shape_at("S2", "gated")
    high = low.model_copy(update={"encoder_dtype": "float32"})
    assert amounts(high).gathered == 0
    assert amounts(high).bytes > amounts(low).bytes
    gap = amounts(high).product_flops / kernel_speed.FLOAT32_FLOPS
    assert seconds(high) > gap > seconds(low)


def test_micro_batches_add_gradients_and_starts() -> None:
    whole = shape_at("S2", "topk")
    parts = whole.model_copy(update={"micro_batches": 4})
    added = 3 * kernel_speed.MICRO_BATCH_BYTES * whole.parameters
    assert amounts(parts).bytes - amounts(whole).bytes == pytest.approx(added)
    assert seconds(parts) == pytest.approx(
        max(4 * HOST_S, seconds(whole) + added / kernel_speed.BYTES)
    )


def predicted(spec: TrainSpec, data: TrainingData, ran: StepShape, took: float) -> float:
    record = SpeedRecord(job="j-1", shape=ran, seconds_per_step=took)
    on = Machine(kind="card", memory_bytes=2**36, records=(record,))
    found = seconds_per_step(spec, data, on, accelerated=True)
    assert found is not None
    return found
