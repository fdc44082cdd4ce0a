"""Messages as plain data: whole numbers are numbers, exactly, wherever they stand."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from saeserve.cli.output import print_json
from saeserve.client.events import event_value
from saeserve.client.jobs import parse_spec
from saeserve.client.values import job_value
from saeserve.v1 import job_pb2

WHOLE = st.integers(1, 2**63 - 1)


def job(spec: Mapping[str, object]) -> job_pb2.Job:
    message = parse_spec({"train": spec})
    return job_pb2.Job(id="j-1", spec=message, resolved_spec=message)


@given(tokens=WHOLE, k=WHOLE, axis=st.lists(WHOLE, min_size=1, max_size=3))
def test_whole_numbers_of_a_resolved_spec_are_exact_ints(
    tokens: int, k: int, axis: list[int]
) -> None:
    spec = {"tokens": tokens, "topk": {"k": k}, "sweep": {"d_sae": axis}, "seed": 0}
    train = job_value(job(spec)).resolved_spec["train"]
    assert train == spec
    assert [type(each) for each in (train["tokens"], train["topk"]["k"], *axis)] == [int] * (
        2 + len(axis)
    )


def test_json_of_a_job_and_of_an_event_has_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = 2**53 + 1
    event = job_pb2.JobEvent(step=exact)
    event.checkpoint_committed.bytes = exact
    for value in (job_value(job({"tokens": exact, "preset": "7"})), event_value(event)):
        out = Console(file=io.StringIO(), width=200)
        monkeypatch.setattr("saeserve.cli.output.console", out)
        print_json(value)
        assert isinstance(out.file, io.StringIO)
        text = out.file.getvalue()
        assert f'"{exact}"' not in text
        told = json.loads(text)
        found = told.get("data") or told["resolved_spec"]["train"]
        assert found in ({"bytes": exact}, {"tokens": exact, "preset": "7"})
