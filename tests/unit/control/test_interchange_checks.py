"""What import and export jobs are checked against before they are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.fakes.control import TRAIN, Bench

from saeserve.control.converters.jobs import job_message
from saeserve.errors import FailedPrecondition, InvalidInput, NotFound, ServiceError
from saeserve.jobs.record import Output
from saeserve.jobs.states import JobState


def wanted(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    spec: dict[str, Any] = {"model": "theirs", "format": "saelens", "path": "files:sae"}
    return {"import_model": spec | changes}


@pytest.fixture
def files(bench: Bench) -> Bench:
    folder = bench.root / "sae"
    folder.mkdir()
    (folder / "sae_weights.safetensors").write_bytes(b"x" * 100)
    (bench.root / "x.npy").write_bytes(b"x")
    return bench


def test_an_import_is_planned_by_the_size_of_its_files(files: Bench) -> None:
    record, plan = files.plan(wanted())
    assert record.state is JobState.QUEUED
    assert record.submission.resource_class == "cpu"
    assert plan.disk_bytes == 100


def test_an_import_is_planned_by_what_its_files_unfold_to(files: Bench) -> None:
    path = files.root / "sae" / "params.npz"
    np.savez_compressed(path, W_enc=np.zeros((500, 2000), np.float32))
    _, plan = files.plan(wanted(format="gemma_scope"))
    assert plan.memory_bytes > 16_000_000 > 1000 * path.stat().st_size / 100
    assert plan.disk_bytes > 4_000_000


@pytest.mark.parametrize("name", ["params.npz", "ae.pt"])
def test_a_broken_archive_is_refused_at_the_submit(files: Bench, name: str) -> None:
    (files.root / "sae" / name).write_bytes(b"no archive")
    with pytest.raises(InvalidInput, match="is not an archive") as caught:
        files.submit(wanted())
    assert caught.value.field == "spec.import_model.path"


def test_a_root_that_is_not_here_is_left_to_the_worker(files: Bench) -> None:
    assert files.submit(wanted(path="far:sae")).state is JobState.QUEUED


@pytest.mark.parametrize(
    ("changes", "kind", "field"),
    [
        ({"path": "files:gone"}, NotFound, "path"),
        ({"path": "files:../sae"}, InvalidInput, "path"),
        ({"path": "sae"}, InvalidInput, "path"),
        ({"format": "onnx"}, InvalidInput, "format"),
        ({"model": "A B"}, InvalidInput, "model"),
        ({"reference": {"activations": "files:x.npy"}}, InvalidInput, "reference"),
        (
            {"reference": {"activations": "files:gone.npy", "features": "files:x.npy"}},
            NotFound,
            "reference.activations",
        ),
        (
            {"reference": {"activations": "files:x.npy", "features": "files:gone.npy"}},
            NotFound,
            "reference.features",
        ),
    ],
)
def test_an_import_that_cannot_run_is_refused(
    files: Bench, changes: dict[str, Any], kind: type[ServiceError], field: str
) -> None:
    with pytest.raises(kind) as caught:
        files.submit(wanted(**changes))
    assert caught.value.field == f"spec.import_model.{field}"


def test_an_export_is_pinned_to_a_version_and_holds_it(bench: Bench) -> None:
    bench.publish()
    record, plan = bench.plan({"export_model": {"model": "sae", "format": "saelens"}})
    resolved = record.submission.resolved_spec["export_model"]
    assert resolved["model"] == "models/sae/versions/1"
    assert plan.disk_bytes > 0
    with pytest.raises(FailedPrecondition, match=record.id):
        bench.parts.models.delete("sae@1", force=False)


@pytest.mark.parametrize("maker", [{"train": TRAIN | {"model": "new"}}, wanted(model="new")])
def test_an_export_may_wait_for_its_model(files: Bench, maker: dict[str, Any]) -> None:
    files.ready()
    first = files.submit(maker)
    export = {"export_model": {"model": "new", "format": "sparsify"}}
    record, plan = files.plan(export, waits_for=(first.id,))
    assert record.state is JobState.BLOCKED
    assert "waits for" in plan.notes[0]
    with pytest.raises(FailedPrecondition, match="still being made"):
        files.submit(export)


def test_an_export_of_several_sources_is_refused_at_once(bench: Bench) -> None:
    bench.publish(sources=("a", "b"))
    with pytest.raises(FailedPrecondition) as caught:
        bench.submit({"export_model": {"model": "sae", "format": "saelens"}})
    assert caught.value.code == "BAD_FORMAT"
    assert "crosscoder: inputs and outputs are several sources (a, b)" in caught.value.message


def test_what_was_exported_is_told(bench: Bench) -> None:
    bench.publish()
    record = bench.submit({"export_model": {"model": "sae", "format": "saelens"}})
    done = record.model_copy(update={"outputs": (Output(exported="exports/sae/1/saelens"),)})
    assert job_message(done).outputs[0].exported == "exports/sae/1/saelens"
