from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.planning.footprint import Memory, Part
from saeserve.core.planning.machine import Fleet, Machine
from saeserve.core.planning.plan import Plan, plan_training
from saeserve.core.planning.sizes import TrainingData, parameter_count
from saeserve.core.planning.tensors import footprint_of
from saeserve.core.specs.training import TrainSpec, resolve

DATA = TrainingData(d=64, train_rows=50_000, heldout_rows=5_000, shard_rows=16_384)


def spec(**changes: object) -> TrainSpec:
    values: dict[str, object] = {
        "dataset": "acts",
        "model": "sae",
        "topk": {"k": 8},
        "d_sae": 512,
        "tokens": 40_000_000,
        "batch_size": 1000,
        "eval_rows": 1000,
    }
    return TrainSpec.parse(values | changes, "train")


def plan_of(asked: TrainSpec, data: TrainingData = DATA) -> Plan:
    return plan_training(asked, resolve(asked, data.d, "x"), data)


def test_counts_parameters_by_hand() -> None:
    assert parameter_count("topk", 3, 5) == 3 * 5 + 5 * 3 + 5 + 3
    assert parameter_count("jumprelu", 3, 5) == 3 * 5 + 5 * 3 + 5 + 3 + 5


def test_counts_bytes_by_hand() -> None:
    plan = plan_of(spec())
    assert plan.parameters == 2 * 64 * 512 + 512 + 64
    memory = plan.memory
    assert memory is not None
    assert memory.parameter_bytes == memory.gradient_bytes == 4 * plan.parameters
    assert memory.optimizer_bytes == 8 * plan.parameters + 2 * 8 * 512
    assert memory.data_bytes == (50_000 + 16_384) * 64 * 4 + 2 * 50_000 * 8
    assert plan.memory_bytes == max(peak.bytes for peak in memory.peaks)
    assert plan.disk_bytes == plan.parameters * (3 * 12 + 2 * 4)
    assert plan.steps == 40_000


def test_micro_batches_hold_less_and_sum_their_gradients() -> None:
    whole, parts = plan_of(spec()).memory, plan_of(spec(micro_batch_size=100)).memory
    assert whole is not None
    assert parts is not None
    assert parts.step_bytes < whole.step_bytes
    assert parts.gradient_bytes == 2 * whole.gradient_bytes


def test_data_in_half_precision_takes_half() -> None:
    halves = DATA.model_copy(update={"value_bytes": 2})
    whole, half = plan_of(spec()).memory, plan_of(spec(), halves).memory
    assert whole is not None
    assert half is not None
    assert whole.data_bytes - half.data_bytes == (50_000 + 16_384) * 64 * 2


def test_a_window_is_read_ahead_where_there_is_another() -> None:
    few = DATA.model_copy(update={"train_rows": 8 * 16_384})
    more = DATA.model_copy(update={"train_rows": 16 * 16_384})
    one, two = plan_of(spec(), few).memory, plan_of(spec(), more).memory
    assert one is not None
    assert two is not None
    assert two.data_bytes - one.data_bytes == 8 * 16_384 * 64 * 4


def test_only_steps_are_known_without_the_data() -> None:
    plan = plan_training(spec(), spec(), None)
    assert (plan.steps, plan.parameters, plan.memory_bytes) == (40_000, 0, 0)
    assert "READY" in plan.notes[0]


def test_an_accelerator_holds_the_blocks_that_are_on_their_way() -> None:
    halves = DATA.model_copy(update={"value_bytes": 2})
    run = resolve(spec(), DATA.d, "x")
    rows = footprint_of((run,), halves, Memory.DEVICE).held
    on_device = {row.name: row.size for row in rows if row.part is Part.DATA and not row.host}
    assert on_device == {"blocks on the device": 3 * 1000 * 64 * 2}
    cpu = footprint_of((run,), halves).held
    assert {"blocks on the device", "blocks staged"}.isdisjoint(row.name for row in cpu)


def test_says_how_often_an_accelerator_reports() -> None:
    fleet = Fleet(resource_class="gpu", machines=(Machine(kind="card", memory_bytes=2**40),))
    plan = plan_training(spec(), resolve(spec(), DATA.d, "x"), DATA, fleet)
    assert any("0.5 s apart and checkpoints 60 s" in note for note in plan.notes)
    assert not any("apart" in note for note in plan_of(spec()).notes)


def test_tells_a_lowered_dead_window() -> None:
    assert any("from 10000000 to 4000000" in note for note in plan_of(spec()).notes)
    long = spec(tokens=200_000_000)
    assert not any("dead_window" in note for note in plan_of(long).notes)


def test_tells_what_the_data_makes_of_the_spec() -> None:
    notes = " | ".join(plan_of(spec(tokens=40_000_001, eval_rows=9_000, d_sae=32)).notes)
    for part in ("last 1 tokens", "800.0 times", "5000 rows are held out", "not overcomplete"):
        assert part in notes


@given(st.sampled_from(["topk", "jumprelu"]), st.integers(1, 12), st.integers(1, 12))
def test_more_latents_never_take_less(name: str, d_sae: int, more: int) -> None:
    data = DATA.model_copy(update={"d": 8})
    chosen: dict[str, object] = {"topk": None, name: {"k": 1} if name == "topk" else {}}
    small, large = (plan_of(spec(**chosen, d_sae=n), data) for n in (d_sae, d_sae + more))
    assert small.memory_bytes <= large.memory_bytes
    assert small.memory is not None
    assert large.memory is not None
    assert small.memory.parameter_bytes < large.memory.parameter_bytes
    assert small.disk_bytes < large.disk_bytes
