from __future__ import annotations

from pathlib import Path

import pytest

from saeserve.core.formats.manifest import DatasetManifest
from saeserve.errors import Conflict, FailedPrecondition, FormatError, InvalidInput, NotFound
from saeserve.registry.dataset import DatasetState
from saeserve.registry.datasets import DatasetRegistry


def test_pending_then_ready(datasets: DatasetRegistry, manifest: DatasetManifest) -> None:
    assert datasets.create("acts", "j-1").state is DatasetState.PENDING
    datasets.commit("acts", manifest.to_bytes())
    found = datasets.get("acts")
    assert (found.state, found.job, found.created) == (DatasetState.READY, "j-1", 1000.0)
    assert datasets.manifest("acts") == manifest
    assert datasets.names() == ["acts"]


def test_pending_then_failed_for_good(datasets: DatasetRegistry, manifest: DatasetManifest) -> None:
    datasets.create("acts", "j-1")
    datasets.fail("acts", "shards/00001.safetensors, row 7: NaN")
    datasets.fail("acts", "another reason")
    assert datasets.get("acts").failure == "shards/00001.safetensors, row 7: NaN"
    with pytest.raises(FailedPrecondition, match="row 7"):
        datasets.commit("acts", manifest.to_bytes())
    with pytest.raises(FailedPrecondition, match="row 7") as caught:
        datasets.manifest("acts", "spec.train.dataset")
    assert caught.value.field == "spec.train.dataset"


def test_a_ready_data_set_does_not_fail(
    datasets: DatasetRegistry, manifest: DatasetManifest
) -> None:
    datasets.create("acts", "j-1")
    datasets.commit("acts", manifest.to_bytes())
    datasets.fail("acts", "too late")
    assert datasets.get("acts").state is DatasetState.READY


def test_commit_is_idempotent_and_never_overwrites(
    datasets: DatasetRegistry, manifest: DatasetManifest
) -> None:
    datasets.create("acts", "j-1")
    datasets.commit("acts", manifest.to_bytes())
    datasets.commit("acts", manifest.to_bytes())
    with pytest.raises(Conflict):
        datasets.commit("acts", manifest.model_copy(update={"rows": 4}).to_bytes())
    with pytest.raises(FormatError):
        datasets.commit("acts", b'{"format_version": 9}')


def test_only_one_job_makes_a_data_set(datasets: DatasetRegistry) -> None:
    datasets.create("acts", "j-1")
    datasets.create("acts", "j-1")
    with pytest.raises(Conflict, match="j-1"):
        datasets.create("acts", "j-2")


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "a..b", "-a", "a" * 65])
def test_a_bad_name_never_becomes_a_path(datasets: DatasetRegistry, name: str) -> None:
    for call in (datasets.create, datasets.get, datasets.exists, datasets.delete):
        with pytest.raises(InvalidInput):
            call(name)


def test_delete_names_the_jobs_that_use_it(datasets: DatasetRegistry) -> None:
    datasets.create("acts")
    with pytest.raises(FailedPrecondition, match="job j-7"):
        datasets.delete("acts", ["j-7"])
    datasets.delete("acts", ["j-7"], force=True)
    with pytest.raises(NotFound):
        datasets.get("acts")
    with pytest.raises(NotFound):
        datasets.delete("acts")


def test_registers_files_below_a_root(datasets: DatasetRegistry, root: Path) -> None:
    for name in ("b.npy", "a.safetensors"):
        (root / name).write_bytes(b"12345")
    files = ["acts:b.npy", "acts:a.safetensors"]
    found = datasets.register("acts", files)
    assert datasets.register("acts", files).files == found.files
    assert [(file.name, file.size_bytes) for file in found.files] == [(name, 5) for name in files]
    assert datasets.paths("acts") == [root / "a.safetensors", root / "b.npy"]


def test_registering_others_under_the_name_conflicts(datasets: DatasetRegistry, root: Path) -> None:
    for name in ("a.npy", "b.npy"):
        (root / name).write_bytes(b"1")
    datasets.register("acts", ["acts:a.npy"])
    with pytest.raises(Conflict):
        datasets.register("acts", ["acts:b.npy"])
    datasets.create("made", "j-1")
    with pytest.raises(Conflict):
        datasets.register("made", ["acts:a.npy"])


@pytest.mark.parametrize(
    ("files", "error", "field"),
    [
        ([], InvalidInput, "files"),
        (["acts:a.npy", "acts:gone.npy"], NotFound, "files[1]"),
        (["acts:a.txt"], InvalidInput, "files[0]"),
        (["acts:folder.npy"], InvalidInput, "files[0]"),
        (["acts:a.npy", "acts:sub/a.npy"], InvalidInput, "files[1]"),
        (["acts:../a.npy"], InvalidInput, "files[0]"),
    ],
)
def test_a_bad_registration_makes_no_data_set(
    datasets: DatasetRegistry, root: Path, files: list[str], error: type[Exception], field: str
) -> None:
    (root / "sub").mkdir()
    (root / "folder.npy").mkdir()
    for name in ("a.npy", "a.txt", "sub/a.npy"):
        (root / name).write_bytes(b"1")
    with pytest.raises(error) as caught:
        datasets.register("acts", files)
    assert getattr(caught.value, "field", "") == field
    assert datasets.names() == []


def test_ingest_paths_say_what_is_missing(datasets: DatasetRegistry, root: Path) -> None:
    (root / "a.npy").write_bytes(b"1")
    datasets.register("acts", ["acts:a.npy"])
    (root / "a.npy").unlink()
    with pytest.raises(FailedPrecondition, match=r"acts:a\.npy is missing"):
        datasets.paths("acts")
    datasets.create("empty")
    with pytest.raises(FailedPrecondition, match="no files"):
        datasets.paths("empty")
