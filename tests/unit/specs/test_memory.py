from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.specs.memory import Plan, plan_training
from saeserve.core.specs.sizes import TrainingData, parameter_count
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
    state = 16 * plan.parameters
    step = 1000 * (3 * 512 + 4 * 64) * 4
    window = 50_000 * 64 * 4
    assert plan.memory_bytes == state + step + window
    assert plan.disk_bytes == plan.parameters * (3 * 12 + 2 * 4)
    assert plan.steps == 40_000


def test_only_steps_are_known_without_the_data() -> None:
    plan = plan_training(spec(), spec(), None)
    assert (plan.steps, plan.parameters, plan.memory_bytes) == (40_000, 0, 0)
    assert "READY" in plan.notes[0]


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
    assert small.memory_bytes < large.memory_bytes
    assert small.disk_bytes < large.disk_bytes
