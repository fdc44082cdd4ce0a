"""Curves in MLflow and Weights & Biases: every point once, by the real libraries on files."""

from __future__ import annotations

import importlib
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from saeserve.cli.tracking.mlflow import Mlflow, flat
from saeserve.cli.tracking.runs import Run, runs_of
from saeserve.cli.tracking.wandb import WeightsAndBiases
from saeserve.client.curves import CurvePoint
from saeserve.client.errors import PreconditionError, UnavailableError

POINTS = [
    CurvePoint(
        "sae", step, 64 * step, datetime(2026, 1, 1, tzinfo=UTC), 1, {"fvu": 1 / step, "l0": 4.0}
    )
    for step in (5, 10, 15)
]
RUN = Run("j-1", "sae", {"d_sae": 32, "topk": {"k": 4}, "note": None}, POINTS)


def test_each_model_of_a_sweep_is_a_run() -> None:
    other = [replace(point, model="sae-seed1") for point in POINTS]
    spec = {"train": {"d_sae": 32}}
    jobs = Mock()
    jobs.get.return_value = SimpleNamespace(kind="train", resolved_spec=spec)
    jobs.metrics.return_value = [*POINTS, *other]
    client: Any = SimpleNamespace(jobs=jobs)
    runs = runs_of(client, "j-1")
    assert [(run.id, run.name) for run in runs] == [
        ("j-1.sae", "sae"),
        ("j-1.sae-seed1", "sae-seed1"),
    ]
    assert runs[1].points == other
    assert runs[0].config == {"d_sae": 32, "model": "sae", "saeserve_job": "j-1"}
    jobs.metrics.return_value = POINTS
    assert [run.id for run in runs_of(client, "j-1")] == ["j-1"]


def test_a_spec_is_flat_texts() -> None:
    assert dict(flat(RUN.config)) == {"d_sae": "32", "topk.k": "4", "note": "null"}


@pytest.mark.parametrize(("tracker", "name"), [(Mlflow, "mlflow"), (WeightsAndBiases, "wandb")])
def test_a_library_that_is_absent_is_named_with_its_extra(
    tracker: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PreconditionError, match=rf"pip install 'saeserve\[{name}\]'"):
        tracker()


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The library, on a folder."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    found: Any = pytest.importorskip("mlflow")
    found.set_tracking_uri(f"file://{tmp_path}/mlruns")
    yield found
    found.set_tracking_uri(None)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mlflow_has_every_point_once(mlflow: Any) -> None:  # noqa: ANN401
    tracker = Mlflow()
    first = tracker.export(replace(RUN, points=POINTS[:2]), "interp")
    again = tracker.export(RUN, "interp")
    none = tracker.export(RUN, "interp")
    assert [each.points for each in (first, again, none)] == [2, 1, 0]
    assert first.place == again.place
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("interp").experiment_id
    [run] = client.search_runs([experiment])
    assert (run.info.run_name, run.data.tags["saeserve.run"]) == ("sae", "j-1")
    assert run.data.params == dict(flat(RUN.config))
    for name, value in {"fvu": 1 / 15, "tokens": 960.0}.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [each.step for each in history] == [5, 10, 15]
        assert history[-1].value == value
    tracker.export(replace(RUN, id="j-2"), "interp")
    assert len(client.search_runs([experiment])) == 2


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_mlflow_refuses_is_an_error_of_ours(mlflow: Any) -> None:  # noqa: ANN401
    with pytest.raises(UnavailableError, match="MLflow does not take the curves"):
        Mlflow().export(RUN, "")


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_keeps_one_folder_with_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    pytest.importorskip("wandb")
    tracker = WeightsAndBiases()
    first = tracker.export(replace(RUN, points=POINTS[:2]), "interp")
    again = tracker.export(RUN, "interp")
    assert (first.points, again.points) == (2, 3)
    [folder] = (tmp_path / "wandb").glob("offline-run-*-j-1")
    assert str(folder) == again.place
    [file] = folder.glob("*.wandb")
    assert list(wandb_records(file.read_bytes())) == [
        (point.step, point.tokens, point.values["fvu"]) for point in POINTS
    ]


def wandb_records(data: bytes) -> Iterator[tuple[int, float, float]]:
    """Step, tokens and FVU of each history record of a file of one block (LevelDB's log form)."""
    wire: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    at = 7
    while at + 7 <= len(data):
        _, size, _ = struct.unpack("<IHB", data[at : at + 7])
        record = wire.Record.FromString(data[at + 7 : at + 7 + size])
        at += 7 + size
        if record.WhichOneof("record_type") == "history":
            items = {
                each.key or each.nested_key[0]: each.value_json for each in record.history.item
            }
            yield record.history.step.num, float(items["tokens"]), float(items["fvu"])
