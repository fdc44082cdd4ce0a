"""Adopting foreign files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.fakes.datasets import save_tensors

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.finishing import write_manifest
from saeserve.core.data.ingest import (
    IngestEvent,
    IngestFinished,
    IngestProgress,
    IngestStopped,
    ingest,
)
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import IngestSpec
from saeserve.errors import DataError, NoSpaceError

ROWS, D = 1100, 6


def spec(**values: object) -> IngestSpec:
    return IngestSpec.parse({"dataset": "foreign", "shard_rows": 300, **values}, "ingest")


def matrix(rows: int = ROWS, d: int = D, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, d), dtype=np.float32)


def save_npy(path: Path, array: NDArray[Any]) -> Path:
    np.save(path, array, allow_pickle=False)
    return path


def run(
    files: Sequence[Path],
    folder: Path,
    how: IngestSpec | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[IngestEvent]:
    return list(ingest(files, how or spec(), folder, "foreign", stop))


def finished(events: list[IngestEvent]) -> DatasetManifest:
    assert isinstance(events[-1], IngestFinished)
    return events[-1].manifest


def stored(folder: Path, manifest: DatasetManifest, source: str) -> torch.Tensor:
    dataset = ShardedDataset(folder, manifest)
    parts: list[torch.Tensor] = []
    for index, entry in enumerate(manifest.shards):
        with dataset.shard(index) as shard:
            parts.append(shard.take(source, np.arange(entry.rows)).clone())
    return torch.cat(parts)


def test_npy_files_follow_each_other(tmp_path: Path) -> None:
    a, b = matrix(), matrix(10, seed=1)
    files = [save_npy(tmp_path / "a.npy", a), save_npy(tmp_path / "b.npy", b)]
    events = run(files, tmp_path / "data")
    manifest = finished(events)
    assert events[:-1] == [IngestProgress(1100, 1110), IngestProgress(1110, 1110)]
    assert torch.equal(
        stored(tmp_path / "data", manifest, "activations"), torch.as_tensor(np.concatenate([a, b]))
    )
    assert (manifest.rows, manifest.dtype) == (1110, "float32")
    assert [(e.origin, e.rows) for e in manifest.documents] == [
        ("a.npy rows 0-255", 256),
        ("a.npy rows 256-511", 256),
        ("a.npy rows 512-767", 256),
        ("a.npy rows 768-1023", 256),
        ("a.npy rows 1024-1099", 76),
        ("b.npy rows 0-9", 10),
    ]
    write_manifest(tmp_path / "data", manifest)
    assert ShardedDataset.open(tmp_path / "data").manifest == manifest


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_npy_of_either_order_keeps_its_type(
    tmp_path: Path, order: Literal["C", "F"], dtype: str
) -> None:
    array = np.asarray(matrix(), dtype=dtype, order=order)
    manifest = finished(run([save_npy(tmp_path / "a.npy", array)], tmp_path / "data"))
    assert manifest.dtype == dtype
    found = stored(tmp_path / "data", manifest, "activations")
    assert torch.equal(found, torch.as_tensor(np.ascontiguousarray(array)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", ">f4", ">f2"])
def test_npy_of_other_widths_and_byte_orders_is_converted(
    dtype: str,
    order: Literal["C", "F"],
    tmp_path: Path,
) -> None:
    values = np.array(matrix(), dtype, order=order)
    folder = tmp_path / "acts"
    manifest = finished(run([save_npy(tmp_path / "a.npy", values)], folder))
    assert manifest.dtype == ("float16" if dtype == ">f2" else "float32")
    found = stored(folder, manifest, "activations").float().numpy()
    assert np.array_equal(found, values.astype(np.float32))


def test_npy_of_bfloat16_keeps_its_type(tmp_path: Path) -> None:
    wanted = torch.as_tensor(matrix()).bfloat16()
    path = save_npy(tmp_path / "a.npy", wanted.view(torch.int16).numpy())
    path.write_bytes(path.read_bytes().replace(b"'<i2'", b"'<V2'"))  # as of ml_dtypes' bfloat16
    manifest = finished(run([path], tmp_path / "acts"))
    assert manifest.dtype == "bfloat16"
    assert torch.equal(stored(tmp_path / "acts", manifest, "activations"), wanted)


def test_tensors_of_float64_are_stored_beside_those_of_float32(tmp_path: Path) -> None:
    x, y = torch.as_tensor(matrix()), torch.as_tensor(matrix(seed=1)).double()
    path = save_tensors(tmp_path / "a.safetensors", {"x": x, "y": y})
    manifest = finished(run([path], tmp_path / "acts"))
    assert manifest.dtype == "float32"
    for source, wanted in (("x", x), ("y", y.float())):
        assert torch.equal(stored(tmp_path / "acts", manifest, source), wanted)


def test_tensors_side_by_side_become_sources(tmp_path: Path) -> None:
    x, y = torch.as_tensor(matrix()).bfloat16(), torch.as_tensor(matrix(d=3)).bfloat16()
    path = save_tensors(tmp_path / "a.safetensors", {"x": x, "y": y})
    manifest = finished(run([path], tmp_path / "all"))
    assert [(s.name, s.d) for s in manifest.sources] == [("x", D), ("y", 3)]
    assert torch.equal(stored(tmp_path / "all", manifest, "y"), y)
    how = spec(sources=[{"tensor": "y", "source": "mlp", "hook": "mlp_out", "layer": 7}])
    manifest = finished(run([path], tmp_path / "one", how))
    assert [(s.name, s.hook, s.layer) for s in manifest.sources] == [("mlp", "mlp_out", 7)]
    assert torch.equal(stored(tmp_path / "one", manifest, "mlp"), y)


def test_an_unnamed_tensor_is_the_only_one_or_the_one_called_as_the_source(tmp_path: Path) -> None:
    x, y = torch.as_tensor(matrix()), torch.as_tensor(matrix(d=3))
    one = save_tensors(tmp_path / "one.safetensors", {"odd": x})
    two = save_tensors(tmp_path / "two.safetensors", {"x": x, "y": y})
    assert finished(run([one], tmp_path / "a", spec(sources=[{"source": "s"}]))).rows == ROWS
    manifest = finished(run([two], tmp_path / "b", spec(sources=[{"source": "y"}])))
    assert torch.equal(stored(tmp_path / "b", manifest, "y"), y)


def test_types_are_converted_when_asked(tmp_path: Path) -> None:
    files = [
        save_npy(tmp_path / "a.npy", matrix()),
        save_npy(tmp_path / "b.npy", matrix().astype(np.float16)),
    ]
    manifest = finished(run(files, tmp_path / "data", spec(dtype="bfloat16")))
    assert manifest.dtype == "bfloat16"
    found = stored(tmp_path / "data", manifest, "activations")
    assert torch.equal(found[:ROWS], torch.as_tensor(matrix()).bfloat16())


def test_the_split_does_not_depend_on_shards_or_place(tmp_path: Path) -> None:
    path = save_npy(tmp_path / "a.npy", matrix(256 * 12))
    a = finished(run([path], tmp_path / "a", spec(heldout_fraction=0.4)))
    b = finished(run([path], tmp_path / "b", spec(heldout_fraction=0.4, shard_rows=1000)))
    assert a.documents == b.documents
    assert {entry.split for entry in a.documents} == {"train", "heldout"}


def test_a_stopped_ingest_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saeserve.core.data.ingest._CHUNK_BYTES", 1)
    path = save_npy(tmp_path / "a.npy", matrix())
    whole = finished(run([path], tmp_path / "whole"))
    calls = iter([False, False, False, True])
    events = run([path], tmp_path / "data", stop=lambda: next(calls))
    assert events[-1] == IngestStopped(600)
    assert [e.rows_done for e in events[:-1] if isinstance(e, IngestProgress)] == [256, 512, 768]
    assert finished(run([path], tmp_path / "data")) == whole
    assert torch.equal(stored(tmp_path / "data", whole, "activations"), torch.as_tensor(matrix()))


@pytest.mark.parametrize("row", [0, 255, 300, 599])
def test_an_ingest_does_not_go_on_with_a_file_that_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    monkeypatch.setattr("saeserve.core.data.ingest._CHUNK_BYTES", 1)
    path = save_npy(tmp_path / "a.npy", matrix())
    calls = iter([False, False, False, True])
    run([path], tmp_path / "data", stop=lambda: next(calls))
    changed = matrix()
    changed[row, 2] += 1
    save_npy(path, changed)
    with pytest.raises(DataError, match=r"a\.npy was changed since an earlier attempt"):
        run([path], tmp_path / "data")


def test_a_full_disk_keeps_the_whole_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_npy(tmp_path / "a.npy", matrix())
    written: list[Path] = []

    def create(target: Path, data: bytes) -> bool:
        if len(written) == 2:
            raise NoSpaceError("full")
        written.append(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        return bool(target.write_bytes(data))

    with monkeypatch.context() as patch:
        patch.setattr("saeserve.core.data.writer.create", create)
        with pytest.raises(NoSpaceError):
            run([path], tmp_path / "data")
    assert len(list((tmp_path / "data" / "shards").iterdir())) == 2
    assert finished(run([path], tmp_path / "data")).rows == ROWS


@pytest.mark.parametrize("rows", [2, 31, 257, 1000, 3000])
def test_some_rows_of_small_data_are_held_out(rows: int, tmp_path: Path) -> None:
    for seed in range(6):
        path = tmp_path / f"{seed}.npy"
        drawn = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
        np.save(path, drawn.numpy())
        manifest = finished(run([path], tmp_path / str(seed), spec(heldout_fraction=0.1)))
        assert 0 < manifest.heldout_rows <= rows / 2
