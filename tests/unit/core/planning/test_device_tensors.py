"""What a step in a GPU's kernels is planned to hold, against what it holds on the meta device."""

from __future__ import annotations

import pytest
from bench.gpu.budgets.steps import ARCHITECTURES, SHAPES, count, spec_of

from saeserve.core.kernels.topk import auxk
from saeserve.core.planning import device_tensors
from saeserve.core.planning.device_tensors import has_kernels
from saeserve.core.planning.footprint import STEP, Footprint, Memory, Moment, Part
from saeserve.core.planning.sizes import TrainingData
from saeserve.core.planning.tensors import footprint_of
from saeserve.core.specs.training import TrainSpec


def planned(spec: TrainSpec, d: int) -> Footprint:
    data = TrainingData(d=d, train_rows=10**7, heldout_rows=8192, shard_rows=10**5, value_bytes=2)
    return footprint_of((spec,), data, Memory.DEVICE)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape_name", SHAPES)
def test_a_step_holds_what_was_planned(shape_name: str, name: str) -> None:
    """AuxK is planned for all latents dead."""
    pytest.importorskip("triton", reason="Triton is not installed")
    shape = SHAPES[shape_name]
    spec = spec_of(name, shape)
    plan = planned(spec, shape.d)
    peak = max(plan.at(moment) - plan.at(moment, Part.BASE) for moment in STEP)
    dead = shape.m if spec.architecture.auxiliary_latents(shape.m) else 0
    assert peak == pytest.approx(count(name, shape, dead).peak, rel=0.1)


def test_constants_are_those_of_the_kernels() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from saeserve.core.gpu import choice, segments

    assert device_tensors.GROUP == choice.WIDEST_GROUP
    assert device_tensors.LIST == choice.ENTRIES
    assert device_tensors.WINDOW == segments.WINDOW
    assert device_tensors.BLOCK_BYTES == auxk._BLOCK_BYTES  # pyright: ignore[reportPrivateUsage]


def test_the_start_is_made_in_the_hosts_memory() -> None:
    plan = planned(spec_of("topk", SHAPES["S1"]), 768)
    parameters = plan.at(Moment.INITIALISATION, Part.PARAMETERS)
    assert plan.at(Moment.INITIALISATION) - plan.at(Moment.INITIALISATION, Part.BASE) == parameters


def test_where_no_kernel_computes_autograds_tensors_are_planned() -> None:
    shape = SHAPES["S1"]
    relu = spec_of("relu", shape)
    revived = relu.architecture.model_copy(update={"auxk_coefficient": 0.03})
    with_auxk = relu.model_copy(update={"relu": revived})
    assert has_kernels(relu)
    assert not has_kernels(with_auxk)
    assert "activations" in {each.name for each in planned(with_auxk, shape.d).held}


def test_a_skip_connection_adds_its_own_tensors_and_no_others() -> None:
    shape = SHAPES["S1"]
    plain = spec_of("relu", shape)
    skipping = plain.model_copy(update={"skip_connection": True})
    assert has_kernels(skipping)
    moment, square = Moment.BACKWARD, 4 * shape.d**2
    found = [planned(spec, shape.d).at(moment) for spec in (plain, skipping)]
    # W_skip, its moments and its gradient; what it leaves of the target, and that one's gradient.
    assert found[1] - found[0] == 4 * square + 2 * 4 * shape.batch * shape.d


def test_in_float32_numbers_are_twice_as_wide_and_nothing_is_copied() -> None:
    shape = SHAPES["S1"]
    low = spec_of("gated", shape)
    high = low.model_copy(update={"encoder_dtype": "float32"})
    entries = 4 * shape.batch * shape.m
    copies = 2 * 2 * shape.m * shape.d
    found = [planned(spec, shape.d).at(Moment.BACKWARD) for spec in (low, high)]
    assert found[1] - found[0] == 2 * entries - copies
