"""How files, flags and --set become one spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeserve.cli import specs, submit
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.jobs import parse_spec


def test_flags_overlay_the_file_and_set_overlays_flags(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("train: {dataset: a, model: m, topk: {k: 8}, d_sae: 64, optimizer: {lr: 1}}")
    spec = specs.build("train", file, {"d_sae": 128, "seed": None}, ["optimizer.lr=1e-3"])
    assert spec["train"]["d_sae"] == 128
    assert spec["train"]["topk"] == {"k": 8}
    assert "seed" not in spec["train"]
    assert float(spec["train"]["optimizer"]["lr"]) == 1e-3


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("harvest: {}")
    with pytest.raises(InvalidArgumentError, match="describes harvest, not train"):
        specs.build("train", file, {}, [])


def test_unset_and_zero_differ_on_the_wire() -> None:
    assert not parse_spec({"train": {"dataset": "a"}}).train.HasField("eval_rows")
    assert parse_spec({"train": {"eval_rows": 0}}).train.HasField("eval_rows")


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="colour"):
        parse_spec({"train": {"colour": "red"}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1:-1", (1, -1)), ("-4:", (-4, None)), (":5", (None, 5)), (":", (None, None))],
)
def test_positions_are_a_python_slice(text: str, expected: tuple[int | None, ...]) -> None:
    harvest = submit.harvest(positions=text, packing="joined", bos="model")["harvest"]
    assert (harvest.get("position_start"), harvest.get("position_stop")) == expected
    assert (harvest["packing"], harvest["bos"]) == ("joined", "model")
    parse_spec({"harvest": harvest})


@pytest.mark.parametrize("text", ["1", "1:2:3", "a:b", "1:-"])
def test_positions_that_are_no_slice_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"write start:stop as in Python"):
        submit.harvest(positions=text)


def test_flags_of_an_evaluation() -> None:
    made = submit.evaluate(model=["a", "b@prod"], dataset="acts", tier=1, arms="mean,pca")
    assert made["evaluate"] == {
        "model": "a",
        "models": ["b@prod"],
        "dataset": "acts",
        "loss_recovered": {"arms": ["mean", "pca"]},
    }
    alone = submit.evaluate(model=["a"], dataset="acts", contexts=5)
    assert alone["evaluate"] == {"model": "a", "dataset": "acts", "context_features": 5}
    tokens = submit.evaluate(model=["a"], splice_tokens="8k")["evaluate"]
    assert tokens["loss_recovered"] == {"max_tokens": "8k"}
