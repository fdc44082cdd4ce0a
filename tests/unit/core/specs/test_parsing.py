from __future__ import annotations

from typing import Any

import pytest

from saeserve.core.specs import fitted
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec
from saeserve.core.specs.architectures.topk import TopKSpec
from saeserve.core.specs.jobs import JobSpec
from saeserve.core.specs.names import check_name
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.errors import SpecError

TRAIN: dict[str, Any] = {
    "dataset": "acts",
    "model": "sae",
    "topk": {"k": 8},
    "d_sae": 512,
    "tokens": 100_000,
}
HARVEST: dict[str, Any] = {
    "dataset": "acts",
    "language_model": {"path": "models:smol"},
    "texts": [{"path": "texts:a.txt"}],
    "sites": [{"layer": 3}],
}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"d_sae": 0}, "train.d_sae"),
        ({"d_sae": "many"}, "train.d_sae"),
        ({"tokens": None}, "train.tokens"),
        ({"tokens": 10, "batch_size": 11}, "train.tokens"),
        ({"topk": {"k": 0}}, "train.topk.k"),
        ({"topk": {"k": 513}}, "train.topk.k"),
        ({"batch_size": 2**28, "tokens": 2**40}, "train.micro_batch_size"),
        (
            {"topk": {"k": 8, "k_aux": 512}, "batch_size": 2**22, "tokens": 2**40},
            "train.micro_batch_size",
        ),
        ({"topk": {"k": 8, "auxk_coefficient": float("nan")}}, "train.topk.auxk_coefficient"),
        ({"topk": None}, "train"),
        ({"jumprelu": {}}, "train"),
        ({"micro_batch_size": 3, "batch_size": 64}, "train.micro_batch_size"),
        ({"optimizer": {"beta1": 1.0}}, "train.optimizer.beta1"),
        ({"device": "tpu"}, "train.device"),
        ({"dataset": "../x"}, "train.dataset"),
        ({"colour": "red"}, "train.colour"),
    ],
)
def test_a_bad_train_field_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        JobSpec.parse({"train": TRAIN | changes}, "")
    assert caught.value.field == field
    assert caught.value.remedy


def test_auxiliary_latents_of_a_term_without_weight_do_not_count() -> None:
    topk = {"k": 8, "k_aux": 512, "auxk_coefficient": 0.0}
    changes = {"topk": topk, "batch_size": 2**22, "tokens": 2**40}
    assert JobSpec.parse({"train": TRAIN | changes}, "")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"texts": []}, "harvest.texts"),
        ({"sites": [{"layer": -1}]}, "harvest.sites.0.layer"),
        ({"sites": [{"layer": 1}, {"layer": 1}]}, "harvest.sites"),
        ({"heldout_fraction": 1.0}, "harvest.heldout_fraction"),
        ({"context_length": 1}, "harvest.context_length"),
    ],
)
def test_a_bad_harvest_field_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        JobSpec.parse({"harvest": HARVEST | changes}, "")
    assert caught.value.field == field


def test_exactly_one_kind() -> None:
    with pytest.raises(SpecError, match="got none"):
        JobSpec.parse({}, "")
    with pytest.raises(SpecError, match="train and harvest"):
        JobSpec.parse({"train": TRAIN, "harvest": HARVEST}, "")
    assert JobSpec.parse({"harvest": HARVEST}, "").kind == "harvest"


def test_specs_read_back_what_they_write() -> None:
    spec = JobSpec.parse({"train": TRAIN}, "")
    assert JobSpec.parse(spec.to_json(), "") == spec


def test_resolve_fills_every_open_field() -> None:
    spec = resolve(TrainSpec.parse(TRAIN, "train"), 64, "resid_post.3")
    assert spec.topk is not None
    assert spec.topk.k_aux == 32
    assert spec.source == "resid_post.3"
    assert spec.micro_batch_size == spec.batch_size
    assert (spec.batch_size, spec.steps, spec.optimizer.warmup_steps) == (128, 781, 39)
    assert spec.optimizer.lr == fitted.rate_of(TopKSpec.learning_rate, 64, 512, 781)
    assert spec.optimizer.eps == 6.25e-10
    assert spec.dead_window_tokens == 10_000


def test_resolve_keeps_what_is_set() -> None:
    asked = TRAIN | {"topk": {"k": 8, "k_aux": 3}, "optimizer": {"lr": 0.5, "eps": 1e-3}}
    spec = resolve(TrainSpec.parse(asked, "train"), 64, "x")
    assert spec.topk is not None
    assert (spec.topk.k_aux, spec.optimizer.lr, spec.optimizer.eps) == (3, 0.5, 1e-3)
    assert resolve(spec, 64, "x") == spec


@pytest.mark.parametrize(
    ("fields", "field", "part"),
    [
        ({"widths": [4, 4, 512]}, "widths", "do not ascend"),
        ({"widths": [8, 4, 512]}, "widths", "4 follows 8"),
        ({"widths": [4, 513]}, "widths", "exceed d_sae = 512"),
        ({"widths": [4, 8]}, "widths", "end before d_sae = 512"),
        ({"widths": [0, 512]}, "widths", "is not a width"),
        ({"k": 513}, "k", "exceeds d_sae = 512"),
        ({"k": 8, "k_initial": 600}, "k_initial", "exceeds d_sae = 512"),
    ],
)
def test_bad_prefixes_are_named(fields: dict[str, Any], field: str, part: str) -> None:
    asked: dict[str, Any] = {**TRAIN, "topk": None, "matryoshka": fields}
    with pytest.raises(SpecError, match=part) as caught:
        JobSpec.parse({"train": asked}, "")
    assert caught.value.field == f"train.matryoshka.{field}"
    assert caught.value.remedy


def test_resolve_gives_matryoshka_its_widths_and_the_rate_of_its_family() -> None:
    asked: dict[str, Any] = {**TRAIN, "topk": None, "matryoshka": {}}
    spec = resolve(TrainSpec.parse(asked, "train"), 64, "x")
    assert spec.matryoshka is not None
    assert spec.matryoshka.widths == (4, 16, 64, 128, 256, 512)
    assert spec.optimizer.lr == fitted.rate_of(TopKSpec.learning_rate, 64, 512, spec.steps)
    tiny = resolve(TrainSpec.parse(asked | {"d_sae": 40}, "train"), 64, "x")
    assert tiny.matryoshka is not None
    assert tiny.matryoshka.widths == (1, 5, 10, 20, 40)
    own = {"matryoshka": {"widths": [3, 512]}}
    kept = resolve(TrainSpec.parse(asked | own, "train"), 64, "x")
    assert kept.matryoshka is not None
    assert kept.matryoshka.widths == (3, 512)


def test_resolve_jumprelu_never_starts_above_half_of_the_latents() -> None:
    asked: dict[str, Any] = {**TRAIN, "topk": None, "jumprelu": {}}
    wide = resolve(TrainSpec.parse(asked, "train"), 64, "x")
    narrow = resolve(TrainSpec.parse(asked | {"d_sae": 100}, "train"), 64, "x")
    assert wide.jumprelu is not None
    assert narrow.jumprelu is not None
    assert (wide.jumprelu.initial_l0, narrow.jumprelu.initial_l0) == (64.0, 50.0)
    assert wide.optimizer.lr == fitted.rate_of(JumpReluSpec.learning_rate, 64, 512, wide.steps)


@pytest.mark.parametrize("name", ["a", "a-1", "a.b_c", "0" * 64])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a/b", "a..b", ".a", "a-", "a" * 65, "a\n", "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="a name is"):
        check_name(name)


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (
            {"train": {}},
            ["train.dataset", "train.model", "train.d_sae", "train.tokens", "train"],
        ),
        (
            {"train": TRAIN | {"d_sae": "many", "topk": {"k": 0, "color": 1}, "lr": 1}},
            ["train.topk.k", "train.topk.color", "train.d_sae", "train.lr"],
        ),
        (
            {"train": {"preset": "batchtopk", "preprocess": {"mean_norm": 1, "scale": False}}},
            ["train.dataset", "train.model", "train.preprocess.mean_norm", "train.d_sae"],
        ),
        (
            {"harvest": {"sites": [{"layer": -1}, {"layer": "x"}]}},
            ["dataset", "language_model", "texts", "sites.0.layer", "sites.1.layer"],
        ),
        ({"evaluate": {"max_rows": -1}}, ["model", "dataset", "max_rows"]),
        ({"export_model": {"format": "gguf"}}, ["model", "format"]),
    ],
)
def test_every_field_that_is_wrong_is_named_at_once(
    spec: dict[str, Any], fields: list[str]
) -> None:
    with pytest.raises(SpecError) as caught:
        JobSpec.parse(spec, "")
    kind = next(iter(spec))
    named = [field if field.startswith("train") else f"{kind}.{field}" for field in fields]
    assert set(named) <= {part.field for part in caught.value.parts}
    assert len({part.field for part in caught.value.parts}) == len(caught.value.parts)
    assert all(part.message in caught.value.message for part in caught.value.parts)


def test_an_error_of_a_part_is_raised_as_it_is_where_a_spec_is_made_by_code() -> None:
    with pytest.raises(SpecError, match="one architecture"):
        TrainSpec(dataset="acts", model="sae", d_sae=8, tokens=8_000)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (
            {"topk": {"k": 600}, "tokens": 10, "batch_size": 64, "micro_batch_size": 3},
            ["train.topk.k", "train.tokens", "train.micro_batch_size"],
        ),
        (
            {"skip_connection": True, "target_l0": 9, "micro_batch_size": 3, "batch_size": 64},
            ["train.target_l0", "train.skip_connection", "train.micro_batch_size"],
        ),
        (
            {
                "topk": None,
                "sources": ["a"],
                "tokens": 1,
                "batch_size": 2,
                "resample": {"steps": [9]},
            },
            ["train", "train.sources", "train.tokens"],
        ),
        (
            {"topk": None, "matryoshka": {"k": 600, "k_initial": 700, "widths": [2, 1]}},
            ["train.matryoshka.k", "train.matryoshka.k_initial", "train.matryoshka.widths"],
        ),
        (
            {"topk": None, "jumprelu": {}, "target_l0": 600, "resample": {"steps": [10**6]}},
            ["train.target_l0", "train.resample.steps"],
        ),
        (
            {"sweep": {"k": [4, 4], "lr": [1, 1]}, "topk": {}},
            ["train.sweep.k", "train.sweep.lr"],
        ),
        (
            {"sweep": {"k": [4, 600]}, "topk": {}, "skip_connection": True},
            ["train.skip_connection"],
        ),
        (
            {"sweep": {"k": [4, 600], "d_sae": [256, 512]}, "topk": {}, "d_sae": None},
            ["train.sweep.k"],
        ),
    ],
)
def test_all_that_does_not_fit_together_is_named_at_once(
    changes: dict[str, Any], fields: list[str]
) -> None:
    asked = {name: value for name, value in (TRAIN | changes).items() if value is not None}
    with pytest.raises(SpecError) as caught:
        JobSpec.parse({"train": asked}, "")
    assert [part.field for part in caught.value.parts] == fields
    assert all(part.remedy for part in caught.value.parts)


def test_all_that_does_not_fit_in_a_harvest_is_named_at_once() -> None:
    changes = {"position_start": 300, "position_stop": -300, "sites": [{"layer": 1}] * 2}
    with pytest.raises(SpecError) as caught:
        JobSpec.parse({"harvest": HARVEST | changes}, "")
    fields = ["harvest.position_start", "harvest.position_stop", "harvest.sites"]
    assert [part.field for part in caught.value.parts] == fields


def test_a_narrow_dictionary_takes_the_k_of_its_target() -> None:
    spec = TrainSpec.parse(TRAIN | {"topk": {}, "target_l0": 4, "d_sae": 16}, "train")
    assert resolve(spec, 8, "x").asked_l0 == 4
    with pytest.raises(SpecError, match=r"k = 32 exceeds d_sae = 16"):
        TrainSpec.parse(TRAIN | {"topk": {}, "d_sae": 16}, "train")
