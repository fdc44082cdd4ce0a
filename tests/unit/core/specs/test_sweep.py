"""Which train specs a sweep stands for, and what is refused, naming the member."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve.core.specs.names import check_name
from saeserve.core.specs.sweep import MOST_MEMBERS
from saeserve.core.specs.training import TrainSpec, resolve, settled
from saeserve.errors import SpecError

TRAIN: dict[str, Any] = {
    "dataset": "acts",
    "model": "sae",
    "topk": {"k": 8},
    "d_sae": 512,
    "tokens": 100_000,
}


def parse(sweep: object, **changes: object) -> TrainSpec:
    return TrainSpec.parse(TRAIN | changes | {"sweep": sweep}, "train")


def alone(**changes: object) -> TrainSpec:
    return TrainSpec.parse(TRAIN | {"data_seed": 0} | changes, "train")


def test_members_are_the_grid_the_last_field_varying_fastest() -> None:
    spec = parse({"lr": [1e-3, 3e-5], "k": [4, 8.0]}, topk={})
    assert spec.publishes == (
        "sae-k4-lr0.001",
        "sae-k4-lr3e-05",
        "sae-k8-lr0.001",
        "sae-k8-lr3e-05",
    )
    assert [(m.topk.k, m.optimizer.lr) for m in spec.members if m.topk] == [
        (4, 1e-3),
        (4, 3e-5),
        (8, 1e-3),
        (8, 3e-5),
    ]
    assert spec.members[1] == alone(model="sae-k4-lr3e-05", topk={"k": 4}, optimizer={"lr": 3e-5})
    assert all(member.sweep is None for member in spec.members)


def test_what_is_varied_may_be_left_out_and_the_spec_is_its_first_member() -> None:
    fields = {name: value for name, value in TRAIN.items() if name != "d_sae"}
    spec = TrainSpec.parse({**fields, "sweep": {"d_sae": [64, 128]}}, "train")
    assert (spec.d_sae, spec.model) == (64, "sae")
    assert spec.members[0] == alone(model="sae-d64", d_sae=64)


def test_a_spec_without_a_sweep_is_its_only_member() -> None:
    spec = TrainSpec.parse(TRAIN, "train")
    assert spec.members == (spec,)
    assert spec.publishes == ("sae",)


def test_every_member_is_resolved_by_itself() -> None:
    """The published rate depends on d_sae, and Matryoshka's prefixes do."""
    spec = resolve(parse({"d_sae": [512, 2048]}, topk=None, matryoshka={"k": 8}), 64, "x")
    assert spec.optimizer.lr is None
    for member, d_sae in zip(spec.members, (512, 2048), strict=True):
        asked = alone(model=f"sae-d{d_sae}", d_sae=d_sae, topk=None, matryoshka={"k": 8})
        assert resolve(member, 64, "x") == resolve(asked, 64, "x")


def test_the_order_of_rows_is_one_for_all_members() -> None:
    seeds = parse({"seed": [3, 4]})
    assert [(m.seed, m.data_seed) for m in seeds.members] == [(3, 3), (4, 3)]
    assert resolve(seeds, 64, "x").data_seed == 3
    named = parse({"seed": [3, 4]}, data_seed=9)
    assert [(m.seed, m.order_seed) for m in named.members] == [(3, 9), (4, 9)]
    plain = parse({"k": [4, 8]}, seed=5, topk={})
    assert [(m.seed, m.data_seed) for m in plain.members] == [(5, 5), (5, 5)]


def test_without_a_data_seed_the_seed_decides_the_order() -> None:
    spec = TrainSpec.parse(TRAIN | {"seed": 7}, "train")
    assert (spec.order_seed, resolve(spec, 64, "x").data_seed) == (7, 7)
    assert TrainSpec.parse(TRAIN | {"seed": 7, "data_seed": 0}, "train").order_seed == 0


def test_a_swept_target_l0_is_k_where_there_is_one() -> None:
    spec = parse({"target_l0": [16, 20.5]}, topk=None, preset="batchtopk")
    assert [m.batchtopk.k for m in spec.members if m.batchtopk] == [16, 20.5]
    assert spec.publishes == ("sae-l0_16", "sae-l0_20.5")
    penalised = parse({"target_l0": [16, 20], "sparsity_coefficient": [1, 2]}, topk=None, relu={})
    assert penalised.publishes[1] == "sae-lambda1-l0_20"
    assert [m.target_l0 for m in penalised.members] == [16, 20, 16, 20]


def test_a_target_l0_beside_the_grid_may_stand_for_k() -> None:
    spec = settled(parse({"lr": [1e-3, 1e-4]}, topk={}, target_l0=24))
    again = TrainSpec.parse(spec.to_json(), "train")
    assert [m.topk.k for m in again.members if m.topk] == [24, 24]


def test_large_seeds_have_names_of_their_own() -> None:
    models = parse({"seed": [2**60, 2**60 + 1]}).publishes
    assert models == (f"sae-seed{2**60}", f"sae-seed{2**60 + 1}")


AXES = {
    "k": st.integers(1, 64).map(float),
    "d_sae": st.integers(64, 4096),
    "lr": st.floats(1e-7, 10),
    "seed": st.integers(0, 2**63 - 1),
}


@st.composite
def grids(draw: st.DrawFn) -> dict[str, list[float]]:
    names = draw(st.lists(st.sampled_from(list(AXES)), min_size=1, unique=True))
    sizes = st.integers(2, 3)
    return {
        name: draw(st.lists(AXES[name], min_size=(n := draw(sizes)), max_size=n, unique=True))
        for name in names
        if len(names) <= 3 or name != "seed"
    }


def with_grid(grid: dict[str, list[float]]) -> TrainSpec:
    width = {} if "d_sae" in grid else {"d_sae": 512}
    fields: dict[str, Any] = {"dataset": "acts", "model": "m", "topk": {}, "tokens": 100_000}
    return TrainSpec.parse({**fields, **width, "sweep": grid}, "train")


@given(grids())
def test_every_combination_is_there_once_under_a_valid_name(grid: dict[str, list[float]]) -> None:
    spec = resolve(with_grid(grid), 64, "x")
    found = [
        {"k": m.topk.k, "d_sae": m.d_sae, "lr": m.optimizer.lr, "seed": m.seed}
        for m in spec.members
        if m.topk
    ]
    order = [name for name in AXES if name in grid]
    assert [tuple(each[name] for name in order) for each in found] == list(
        itertools.product(*(grid[name] for name in order))
    )
    assert len(set(spec.publishes)) == len(found)
    assert all(check_name(name) for name in spec.publishes)
    assert len({member.data_seed for member in spec.members}) == 1


@given(grids())
def test_a_sweep_reads_back_what_it_writes(grid: dict[str, list[float]]) -> None:
    spec = resolve(with_grid(grid), 64, "x")
    again = TrainSpec.parse(spec.to_json(), "train")
    assert again == spec
    assert again.members == spec.members


LONG = list(range(MOST_MEMBERS + 1))


@pytest.mark.parametrize(
    ("sweep", "changes", "field", "part"),
    [
        ({}, {}, "sweep", "varies nothing"),
        ({"k": [8]}, {}, "sweep", "has one member"),
        ({"k": [8], "lr": [1e-3]}, {}, "sweep", "has one member"),
        ({"seed": LONG}, {}, "sweep", "has 65 members"),
        ({"lr": [1e-3, 1e-4, 0.001]}, {}, "sweep.lr", "0.001 is listed twice"),
        ({"lr": [1e-3, float("inf")]}, {}, "sweep.lr.1", "finite"),
        ({"colour": [1, 2]}, {}, "sweep.colour", "no such field"),
        (7, {}, "sweep", "valid dictionary"),
        ({"sparsity_coefficient": [1, 2]}, {}, "sweep.sparsity_coefficient", "topk has no"),
        ({"k": [4, 8]}, {"topk": None, "relu": {}}, "sweep.k", "relu has no k"),
        ({"k": [8, 16], "target_l0": [8, 16]}, {}, "sweep.target_l0", "is k for topk"),
        ({"k": [8, 600]}, {}, "sweep.k", "member k600: k = 600 exceeds d_sae = 512"),
        ({"k": [8, 8.5]}, {}, "sweep.k", "member k8.5: Input should be a valid integer"),
        ({"d_sae": [512, 4]}, {}, "topk.k", "member d4: k = 8 exceeds d_sae = 4"),
        ({"d_sae": [512, 0]}, {}, "sweep.d_sae", "member d0"),
        ({"lr": [1e-3, -1]}, {}, "sweep.lr", "member lr-1: Input should be greater than 0"),
        ({"target_l0": [8, 16.5]}, {"topk": {}}, "sweep.target_l0", "member l0_16.5"),
        ({"k": [9, 10]}, {}, "topk.k", "is 8, and sweep.k begins with 9"),
        ({"seed": [1, 2]}, {"seed": 5}, "seed", "is 5, and sweep.seed begins with 1"),
        ({"seed": [1, 2]}, {"model": "m" * 60}, "model", "member seed1: a name is 1 to 64"),
        ({"seed": [1, 2]}, {"topk": None}, "", "exactly one architecture must be set; got none"),
        ({"seed": [1, 2]}, {"colour": "red"}, "colour", "colour: there is no such field"),
        ({"seed": [1, 2]}, {"tokens": None}, "tokens", "tokens"),
    ],
)
def test_a_bad_sweep_is_named(
    sweep: object, changes: dict[str, object], field: str, part: str
) -> None:
    with pytest.raises(SpecError) as caught:
        parse(sweep, **changes)
    assert caught.value.field == (f"train.{field}" if field else "train")
    assert part in caught.value.message
    assert caught.value.remedy
