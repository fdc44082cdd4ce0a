"""Where a model comes from, as models show says it."""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.text import Text

from saeserve.cli import models, output
from saeserve.client.model_values import Model, model_value
from saeserve.v1 import model_pb2

TRAINED = {"topk": {"k": 16}, "tokens": 1000, "optimizer": {"lr": 0.001, "beta1": 0.9}}
IMPORTED = {
    "imported_from": "saelens",
    "writer": "sae_lens 3.1.0",
    "conventions": {"b_dec": "subtracted [1]"},
    "readings": [{"cause": "release", "taken": "this", "other": "that"}],
}


def no_jobs(**_: object) -> list[object]:
    """Jobs of a server that evaluated nothing."""
    return []


def model(lineage: Mapping[str, object], **more: str) -> Model:
    message = model_pb2.Model(resource="models/m/versions/1", lineage=json.dumps(lineage))
    for name, value in more.items():
        setattr(message, name, value)
    message.warnings.add(code="KIND_NOT_STATED", message="read as an autoencoder")
    return model_value(message)


def shown(
    value: Model,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    every_field: bool = False,
) -> str:
    def get(_reference: str) -> Model:
        return value

    @contextmanager
    def connect() -> Generator[SimpleNamespace]:
        yield SimpleNamespace(models=SimpleNamespace(get=get), jobs=SimpleNamespace(list=no_jobs))

    monkeypatch.setattr(models, "connect", connect)
    models.show("m", every_field=every_field)
    return capsys.readouterr().out


def test_a_trained_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"dataset": "acts", "source": "resid_post.2", "dataset_sha256": "ab" * 32}
    value = model(TRAINED, job="j-1", code_version="1.2", **more)
    out = shown(value, monkeypatch, capsys)
    assert "acts resid_post.2, content abababababab\n" in out
    assert "saeserve 1.2\n" in out
    assert "topk.k = 16, tokens = 1000, optimizer.lr = 0.001; the whole spec: --all" in out
    assert "KIND_NOT_STATED: read as an autoencoder" in out
    assert "optimizer.beta1 = 0.9" in shown(value, monkeypatch, capsys, every_field=True)


def test_a_reference_a_job_and_a_figure_are_whole_at_40_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Console(file=io.StringIO(), width=40, force_terminal=True, no_color=True, markup=False)
    monkeypatch.setattr(output, "console", out)
    value = replace(
        model(TRAINED, job="j-06h1rn28vmer5a41g5px"),
        resource="models/my-sae/versions/1",
        metrics={"explained_variance": 0.984},
    )

    def get(_reference: str) -> Model:
        return value

    @contextmanager
    def connect() -> Generator[SimpleNamespace]:
        yield SimpleNamespace(models=SimpleNamespace(get=get), jobs=SimpleNamespace(list=no_jobs))

    monkeypatch.setattr(models, "connect", connect)
    models.show("m")
    assert isinstance(out.file, io.StringIO)
    words = Text.from_ansi(out.file.getvalue()).plain.split()
    assert {value.resource, value.job, "explained_variance=0.984"} <= set(words)


def test_an_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(model(IMPORTED, job="j-2"), monkeypatch, capsys)
    for line in (
        "imported_from = saelens",
        "writer = sae_lens 3.1.0",
        "conventions.b_dec = subtracted [1]",
        "readings[0].taken = this",
        "readings[0].other = that",
    ):
        assert f"{line}\n" in out
    assert "data set" not in out


def test_a_server_that_does_not_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    value = model_value(model_pb2.Model(resource="models/m/versions/1"))
    assert value.lineage == {}
    assert "lineage" not in shown(value, monkeypatch, capsys)
