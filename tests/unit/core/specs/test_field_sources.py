"""What a job says of each field that was not given: its value, and where that comes from."""

from __future__ import annotations

import json
from typing import Any

import pytest

from saeserve.core.specs.architectures.base import PenaltySpec
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.field_sources import FieldSource, flat, sources_of, sources_of_training
from saeserve.core.specs.presets import PRESET_TOKENS, PRESETS
from saeserve.core.specs.training import TrainSpec, resolve

D_IN = 256
BASE: dict[str, Any] = {"dataset": "acts", "d_sae": 4096}
INITIAL = {"initial_l0", "bandwidth", "initial_log_threshold"}
LENGTHS = [1_000, 200_000, 1_000_000, 10_000_000, None, 4_000_000_000]


def told(**given: Any) -> dict[str, FieldSource]:  # noqa: ANN401 - any field
    fields = BASE | given
    spec = TrainSpec.parse(fields, "train")
    members = [resolve(member, D_IN, "x") for member in spec.members]
    found = sources_of_training(fields, members)
    assert len({(each.field, each.member) for each in found}) == len(found)
    return {each.field + (f"@{each.member}" if each.member else ""): each for each in found}


def is_told_whole(given: dict[str, Any], found: dict[str, FieldSource]) -> None:
    """Each field of the resolved spec was given or is told, with the value that it has."""
    resolved = flat(resolve(TrainSpec.parse(BASE | given, "train"), D_IN, "x").to_json())
    assert set(resolved) == set(flat(BASE | given)) | set(found)
    assert {path: json.loads(each.value) for path, each in found.items()} == {
        path: resolved[path] for path in found
    }


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("d_sae", [1024, 4608, 131_072])
def test_of_a_preset_each_field_is_told_and_only_lengths_and_starts_are_changed(
    name: str, tokens: int | None, d_sae: int
) -> None:
    given: dict[str, Any] = {"preset": name, "d_sae": d_sae}
    given |= {} if tokens is None else {"tokens": tokens}
    found = told(**given)
    is_told_whole(given, found)
    published = flat(PRESETS[name].fields)
    changed = {path: each for path, each in found.items() if each.origin == "preset_changed"}
    assert changed == {
        path: found[path] for path in published if json.loads(found[path].value) != published[path]
    }
    for path, each in changed.items():
        assert path.rpartition(".")[2] in INITIAL | {
            "batch_size",
            "micro_batch_size",
            "warmup_steps",
        }
        assert json.loads(each.replaced) == published[path]
        assert each.reason
    assert found["optimizer.lr"].origin == "preset"


def test_a_preset_with_room_is_as_published() -> None:
    found = told(preset="openai-topk-2024")
    assert found["batch_size"].origin == found["topk.k"].origin == "preset"
    assert json.loads(found["tokens"].value) == PRESET_TOKENS
    assert found["tokens"].reason == "presets train on 100,000,000 tokens"


def test_a_changed_batch_says_from_what_and_why() -> None:
    batch = told(preset="gemma-scope", tokens=200_000)["batch_size"]
    assert (batch.value, batch.replaced, batch.origin) == ("256", "4096", "preset_changed")
    assert batch.reason == (
        "200,000 tokens are 48 batches of 4,096, and a preset makes 500 steps or more"
    )


def test_what_overrides_a_preset_is_given_and_what_follows_from_it_changed() -> None:
    found = told(preset="openai-topk-2024", batch_size=1000, target_l0=16)
    assert "batch_size" not in found
    assert found["micro_batch_size"].reason == "the batch is 1,000"
    assert (found["topk.k"].value, found["topk.k"].replaced) == ("16", "32")
    assert found["topk.k"].reason == "target_l0 = 16 is set"


@pytest.mark.parametrize("name", sorted(ARCHITECTURE_SPECS))
@pytest.mark.parametrize("tokens", [1_000, 200_000, 1_000_000, 10_000_000, 100_000_000])
def test_of_an_architecture_each_field_is_told_and_what_is_fitted_says_to_what(
    name: str, tokens: int
) -> None:
    given: dict[str, Any] = {name: {}, "tokens": tokens, "model": "m"}
    found = told(**given)
    is_told_whole(given, found)
    fitted = {path for path, each in found.items() if each.origin == "fitted"}
    assert {"batch_size", "optimizer.lr", "optimizer.warmup_steps"} <= fitted
    assert ("target_l0" in fitted) == issubclass(ARCHITECTURE_SPECS[name], PenaltySpec)
    assert all(found[path].reason for path in fitted)
    assert found["optimizer.clip_norm"].origin == "default"
    assert {each.origin for each in found.values()} == {"default", "fitted"}


def test_what_was_given_and_lowered_is_told_too() -> None:
    found = told(jumprelu={"initial_l0": 4000}, tokens=20_000, model="m", dead_window_tokens=10_000)
    window, initial = found["dead_window_tokens"], found["jumprelu.initial_l0"]
    assert (window.origin, window.value, window.replaced) == ("adjusted", "2000", "10000")
    assert (initial.origin, initial.value, initial.replaced) == ("adjusted", "2048.0", "4000")
    assert window.reason
    assert initial.reason


def test_a_spec_that_leaves_nothing_open_has_nothing_to_tell() -> None:
    whole = resolve(TrainSpec.parse(BASE | {"preset": "batchtopk"}, "train"), D_IN, "x").to_json()
    assert told(**whole) == {}


def test_members_of_a_sweep_share_what_is_equal_and_name_what_is_not() -> None:
    found = told(
        preset="batchtopk",
        tokens=1_000_000,
        sweep={"d_sae": [1024, 4096], "k": [16, 32]},
        d_sae=None,
    )
    assert found["batch_size"].origin == "preset_changed"
    rates = [path for path in found if path.startswith("optimizer.lr@")]
    assert len(rates) == len(set(rates)) == 4
    assert found["optimizer.lr@acts-batchtopk-k16-d1024"].reason.endswith("d_sae = 1,024")
    assert not any(path.startswith(("d_sae", "batchtopk.k@", "sweep")) for path in found)


@pytest.mark.parametrize(
    "given", [{"topk": {}, "model": "m", "tokens": 10_000}, {"preset": "batchtopk"}]
)
def test_before_the_data_set_is_there_what_depends_on_it_is_told_as_open(
    given: dict[str, Any],
) -> None:
    fields = BASE | given
    found = {
        each.field: each for each in sources_of_training(fields, [TrainSpec.parse(fields, "train")])
    }
    for path in ("source", "optimizer.lr"):
        assert (found[path].value, found[path].reason) == ("", "once the data set is READY")
    assert found["batch_size"].value


def test_a_job_of_another_kind_tells_its_constants_and_what_it_pinned() -> None:
    given = {"model": "sae@prod", "dataset": "acts"}
    resolved = {"model": "models/sae/versions/2", "dataset": "acts", "max_rows": 0}
    model, rows = sources_of(given, resolved)
    assert (model.origin, model.replaced, model.value) == (
        "adjusted",
        '"sae@prod"',
        '"models/sae/versions/2"',
    )
    assert (rows.field, rows.origin, rows.value) == ("max_rows", "default", "0")
    texts = sources_of({"texts": [{"path": "a:b"}]}, {"texts": [{"path": "a:b", "field": "text"}]})
    assert [each.field for each in texts] == ["texts[0].field"]
