"""What train and evaluate jobs of transcoders and crosscoders are checked against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fakes.control import TRAIN, Bench

from saeserve.control.converters.models import model_message
from saeserve.core.formats.model import ModelConfig, ReluActivation, TensorSource
from saeserve.errors import InvalidInput


def publish(bench: Bench, folder: Path, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    folder.mkdir()
    config = ModelConfig(
        architecture="relu",
        d_in=4 * len(inputs),
        d_out=4 * len(outputs),
        d_sae=8,
        inputs=places(inputs),
        outputs=places(outputs),
        activation=ReluActivation(),
        skip_connection=inputs != outputs,
    )
    (folder / "config.json").write_bytes(config.to_bytes())
    (folder / "model.safetensors").write_text("tensors")
    bench.models.publish("sae", "j-made", 0, folder)


def places(names: tuple[str, ...]) -> tuple[TensorSource, ...]:
    return tuple(TensorSource(name=name, offset=4 * i, d=4) for i, name in enumerate(names))


def test_a_transcoder_is_resolved_and_planned(bench: Bench) -> None:
    bench.ready(sources=("x", "y"))
    fields = {"source": "x", "target_source": "y", "skip_connection": True}
    record, plan = bench.plan({"train": TRAIN | fields})
    resolved = record.submission.resolved_spec["train"]
    assert (resolved["source"], resolved["target_source"]) == ("x", "y")
    assert resolved["skip_connection"] is True
    assert plan.parameters == 8 * (4 + 4 + 1) + 4 + 4 + 4 * 4


def test_a_crosscoder_is_resolved_and_planned(bench: Bench) -> None:
    bench.ready(sources=("x", "y", "z"))
    record, plan = bench.plan({"train": TRAIN | {"sources": ["z", "x"]}})
    resolved = record.submission.resolved_spec["train"]
    assert resolved["sources"] == ["z", "x"]
    assert "source" not in resolved
    assert plan.parameters == 8 * (8 + 8 + 1) + 8


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"sources": ["x", "y"]}, "sources", "data set acts has only x"),
        ({"target_source": "x"}, "target_source", "is the source itself"),
        ({"source": "x", "target_source": "y"}, "target_source", "no source 'y'"),
        ({"skip_connection": True}, "skip_connection", "needs target_source"),
    ],
)
def test_a_form_that_the_data_set_cannot_give_is_refused(
    bench: Bench, fields: dict[str, Any], field: str, text: str
) -> None:
    bench.ready()
    with pytest.raises(InvalidInput, match=text) as caught:
        bench.submit({"train": TRAIN | fields})
    assert caught.value.field == f"spec.train.{field}"
    assert caught.value.remedy
    assert not bench.ledger.jobs()


def test_a_crosscoder_is_evaluated_on_all_its_sources(bench: Bench, tmp_path: Path) -> None:
    bench.ready(sources=("x", "y"))
    bench.ready("single")
    publish(bench, tmp_path / "e", ("x", "y"), ("x", "y"))
    record = bench.submit({"evaluate": {"model": "sae", "dataset": "acts"}})
    assert "source" not in record.submission.resolved_spec["evaluate"]
    refused(bench, {"dataset": "single"}, "source", "no source 'y'")
    refused(bench, {"dataset": "acts", "source": "x"}, "source", "reads x, y, not x")


def test_a_transcoder_is_evaluated_on_its_pair(bench: Bench, tmp_path: Path) -> None:
    bench.ready(sources=("x", "y"), language_model="files:smol")
    publish(bench, tmp_path / "e", ("x",), ("y",))
    record = bench.submit({"evaluate": {"model": "sae", "dataset": "acts"}})
    assert record.submission.resolved_spec["evaluate"]["source"] == "x"
    refused(bench, {"dataset": "acts", "source": "y"}, "source", "reads x, not y")
    spliced: dict[str, Any] = {"model": "sae", "dataset": "acts", "loss_recovered": {}}
    record = bench.submit({"evaluate": spliced})
    assert "loss_recovered" in record.submission.resolved_spec["evaluate"]


def refused(bench: Bench, fields: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        bench.submit({"evaluate": {"model": "sae"} | fields})
    assert caught.value.field == f"spec.evaluate.{field}"


def test_the_api_tells_which_columns_are_which(bench: Bench, tmp_path: Path) -> None:
    publish(bench, tmp_path / "e", ("x", "z"), ("y",))
    message = model_message(bench.models.resolve("sae"))
    assert [(s.name, s.offset, s.d) for s in message.inputs] == [("x", 0, 4), ("z", 4, 4)]
    assert [(s.name, s.offset, s.d) for s in message.outputs] == [("y", 0, 4)]
    assert message.skip_connection
