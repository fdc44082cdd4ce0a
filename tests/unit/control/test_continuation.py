"""Submitting a train job that continues from a published model."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.control import TRAIN, Bench

from saeserve.control.handlers.usage import LiveUse
from saeserve.errors import FailedPrecondition, InvalidInput, NotFound


@pytest.fixture(autouse=True)
def ready(bench: Bench) -> None:
    bench.ready()


def test_the_model_is_pinned_to_the_version_of_this_moment(bench: Bench) -> None:
    resource = bench.publish()
    record = bench.train(init_from="sae")
    assert record.submission.resolved_spec["train"]["init_from"] == resource
    assert record.submission.spec["train"]["init_from"] == "sae"
    assert LiveUse(bench.parts.jobs.catalog, bench.models).of_model(resource) == [record.id]


def test_a_model_that_a_job_waited_for_makes_is_looked_up_later(bench: Bench) -> None:
    first = bench.train(model="next")
    record = bench.submit({"train": TRAIN | {"init_from": "next"}}, waits_for=(first.id,))
    assert record.submission.resolved_spec["train"]["init_from"] == "next"
    with pytest.raises(FailedPrecondition, match="still being made") as caught:
        bench.train(init_from="next")
    assert caught.value.field == "spec.train.init_from"


@pytest.mark.parametrize(
    ("changes", "field", "part"),
    [
        ({"d_sae": 16}, "spec.train.d_sae", "has 8 latents"),
        ({"topk": None, "relu": {}}, "spec.train.init_from", "relu trains relu"),
        ({"init_from": "sae@9"}, "spec.train.init_from", "no version 9"),
    ],
)
def test_a_model_that_cannot_be_continued_is_refused_at_once(
    bench: Bench, changes: dict[str, Any], field: str, part: str
) -> None:
    bench.publish()
    with pytest.raises((InvalidInput, NotFound), match=part) as caught:
        bench.train(**{"init_from": "sae", **changes})
    assert caught.value.field == field
    assert caught.value.remedy
    assert bench.ledger.jobs() == []


def test_data_of_another_width_are_refused(bench: Bench) -> None:
    bench.publish(d=6)
    with pytest.raises(InvalidInput, match=r"reads widths \[6\], and the data have \[4\]"):
        bench.train(init_from="sae")


def test_a_preset_is_enough(bench: Bench) -> None:
    spec = {"preset": "batchtopk", "dataset": "acts", "d_sae": 64}
    record = bench.submit({"train": spec})
    resolved = record.submission.resolved_spec["train"]
    assert (resolved["model"], resolved["batchtopk"]["k"]) == ("acts-batchtopk", 32)
    assert record.submission.spec["train"] == spec
    with pytest.raises(InvalidInput, match="no preset") as caught:
        bench.submit({"train": spec | {"preset": "none"}})
    assert caught.value.field == "spec.train.preset"
