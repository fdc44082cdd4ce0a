"""What the command line says of fields that were not given."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from saeserve.cli import sending, showing
from saeserve.cli.field_sources import field_sources_text, given_text
from saeserve.client.field_sources import FieldSource, field_sources
from saeserve.client.values import Job, job_value
from saeserve.v1 import job_pb2


def source(field: str, value: Any, origin: str, **rest: str) -> job_pb2.FieldSource:  # noqa: ANN401 - any JSON
    return job_pb2.FieldSource(field=field, value=json.dumps(value), origin=origin, **rest)


SOURCES = [
    source("batch_size", 256, "preset_changed", replaced="4096", reason="48 batches of 4,096"),
    source("optimizer.lr", 0.00123456, "fitted", reason="to 500 steps", member="m-d8"),
    source("dead_window_tokens", 10, "adjusted", replaced="99", reason="a tenth"),
    source("topk.k", 32, "preset"),
    source("seed", 0, "default"),
    source("device", "auto", "default"),
    job_pb2.FieldSource(field="source", origin="fitted", reason="once the data set is READY"),
]
LINES = [
    "batch_size = 256: changed from 4096 of preset batchtopk (48 batches of 4,096)",
    "m-d8: optimizer.lr = 0.001235: fitted (to 500 steps)",
    "dead_window_tokens = 10: changed from 99, which was given (a tenth)",
    "source = ?: fitted (once the data set is READY)",
    "as its preset has it: topk.k = 32",
    "by default: seed = 0, device = auto",
]
SHORT = [*LINES[:-1], "2 by default: saeserve jobs show j-1 --all"]
GIVEN = "tokens = 200000, preset = batchtopk, sources = [a.1, b.2]"


def job() -> Job:
    message = job_pb2.Job(id="j-1", field_sources=SOURCES)
    message.spec.train.preset = message.resolved_spec.train.preset = "batchtopk"
    message.spec.train.tokens = 200_000
    message.spec.train.sources.extend(["a.1", "b.2"])
    return job_value(message)


def test_each_computed_or_changed_field_has_a_line_and_the_rest_share_them() -> None:
    assert field_sources_text(field_sources(SOURCES), "batchtopk").splitlines() == LINES
    assert field_sources_text(()) == ""
    short = [*LINES[:-1], "2 by default: as said"]
    assert field_sources_text(field_sources(SOURCES), "batchtopk", "as said").splitlines() == short
    assert job().field_sources[0] == FieldSource(
        "batch_size", 256, "preset_changed", 4096, "48 batches of 4,096"
    )


def test_jobs_show_and_submit_say_them(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Console(file=io.StringIO(), width=200, markup=False)
    monkeypatch.setattr("saeserve.cli.output.console", out)
    monkeypatch.setattr(sending, "errors", out)

    def submit(*_args: object, **_options: object) -> Job:
        return job()

    @contextmanager
    def connect() -> Generator[SimpleNamespace]:
        yield SimpleNamespace(jobs=SimpleNamespace(submit=submit))

    monkeypatch.setattr(sending, "connect", connect)
    for say, lines in (
        (lambda: showing.show_job(job(), as_json=False), [f"given {GIVEN}", *SHORT]),
        (lambda: showing.show_job(job(), as_json=False, every_field=True), [GIVEN, *LINES]),
        (lambda: sending.send({}), SHORT),
    ):
        assert isinstance(out.file, io.StringIO)
        out.file.truncate(0)
        say()
        said = re.sub(" +", " ", out.file.getvalue())
        assert [line for line in lines if line not in said] == []
        assert ("by default: seed" in out.file.getvalue()) == (LINES[-1] in lines)


def test_what_was_given_names_fields_below_lists() -> None:
    message = job_pb2.Job(id="j-1")
    message.spec.harvest.sites.add(hook="resid_post", layer=2)
    message.spec.harvest.language_model.path = "mine:model"
    told = "language_model.path = mine:model, sites[0].hook = resid_post, sites[0].layer = 2"
    assert given_text(job_value(message)) == told


def test_submit_and_watch_says_each_once_and_what_was_resolved_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Console(file=io.StringIO(), width=200, markup=False)
    for module, name in (("output", "console"), ("sending", "errors"), ("watching", "errors")):
        monkeypatch.setattr(f"saeserve.cli.{module}.{name}", out)
    last = job_pb2.Job(id="j-1", state=job_pb2.JOB_STATE_SUCCEEDED, field_sources=SOURCES)
    last.spec.train.preset = last.resolved_spec.train.preset = "batchtopk"
    last.field_sources[-1].CopyFrom(source("source", "activations", "fitted", reason="the only"))

    def submit(*_args: object, **_options: object) -> Job:
        return job()

    def watch(_job: str) -> list[Job]:
        return [job_value(last)]

    @contextmanager
    def connect() -> Generator[SimpleNamespace]:
        yield SimpleNamespace(jobs=SimpleNamespace(submit=submit, watch=watch))

    monkeypatch.setattr(sending, "connect", connect)
    sending.send({}, watch=True)
    assert isinstance(out.file, io.StringIO)
    said = out.file.getvalue()
    assert [said.count(line) for line in SHORT] == [1] * len(SHORT)
    assert said.count("source = activations: fitted (the only)") == 1
