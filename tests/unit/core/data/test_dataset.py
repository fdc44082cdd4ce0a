"""Reading shards back: held-out rows, cuts, and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.fakes.datasets import SOURCE, heldout_mask, numbered_rows, save_tensors, write_dataset

from saeserve.core.data.dataset import HeldoutRows, ShardedDataset
from saeserve.errors import DataError, DataMismatchError


def heldout(
    folder: Path, *, norm_cut: float = 0.0, max_rows: int = 0, batch: int = 7
) -> list[HeldoutRows]:
    dataset = ShardedDataset.open(folder)
    return list(dataset.heldout(SOURCE, norm_cut=norm_cut, max_rows=max_rows, batch=batch))


def test_heldout_rows_come_in_order_with_their_places(tmp_path: Path) -> None:
    x_ND = numbered_rows(90)
    manifest = write_dataset(tmp_path, x_ND, heldout_fraction=0.4)
    rows = np.flatnonzero(heldout_mask(manifest, 90))
    blocks = heldout(tmp_path)
    assert torch.equal(torch.cat([b.x_BD for b in blocks]), x_ND[torch.as_tensor(rows)])
    assert all(len(b.x_BD) <= 7 and b.x_BD.dtype == torch.float32 for b in blocks)
    for name, expected in (
        ("document", rows // 5),
        ("sequence", rows // 5),
        ("position", rows % 5),
        ("token_id", rows + 7),
    ):
        found = np.concatenate([getattr(b, name) for b in blocks])
        assert found.tolist() == expected.tolist()
        assert found.dtype == np.int32


@pytest.mark.parametrize("max_rows", [1, 10, 10_000])
def test_a_limit_takes_heldout_rows_from_all_shards(tmp_path: Path, max_rows: int) -> None:
    manifest = write_dataset(tmp_path, numbered_rows(320), heldout_fraction=0.5)
    blocks = heldout(tmp_path, max_rows=max_rows)
    numbers = torch.cat([b.x_BD[:, 0] for b in blocks])
    assert len(numbers) == min(max_rows, manifest.heldout_rows)
    if max_rows == 10:
        assert len({int(n) // 64 for n in numbers}) >= 4


def test_the_cut_leaves_massive_rows_out(tmp_path: Path) -> None:
    x_ND = numbered_rows(60)
    manifest = write_dataset(tmp_path, x_ND, heldout_fraction=0.4)
    victim = int(np.flatnonzero(heldout_mask(manifest, 60))[2])
    x_ND[victim] *= 1000.0
    write_dataset(tmp_path / "massive", x_ND, heldout_fraction=0.4)
    kept = torch.cat([b.x_BD for b in heldout(tmp_path / "massive", norm_cut=5.0)])
    all_rows = torch.cat([b.x_BD for b in heldout(tmp_path / "massive")])
    assert len(all_rows) == len(kept) + 1 == manifest.heldout_rows
    assert kept.abs().max() < 2000.0 < all_rows.abs().max()


def test_a_data_set_without_heldout_rows_yields_none(tmp_path: Path) -> None:
    write_dataset(tmp_path, numbered_rows(20), heldout_fraction=0.0)
    assert heldout(tmp_path, max_rows=5) == []


def test_an_unknown_source_names_what_there_is(tmp_path: Path) -> None:
    write_dataset(tmp_path, numbered_rows(20))
    with pytest.raises(DataMismatchError, match=f"no source 'mlp'.*{SOURCE}"):
        ShardedDataset.open(tmp_path).source("mlp")
    assert ShardedDataset.open(tmp_path).source(None).name == SOURCE


def test_a_folder_without_manifest_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not READY"):
        ShardedDataset.open(tmp_path)


def test_missing_and_short_shards_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, numbered_rows(40))
    shard = tmp_path / "shards" / "00001.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-8])
    with pytest.raises(DataError, match=f"has {len(data) - 8} bytes") as caught:
        ShardedDataset.open(tmp_path)
    assert caught.value.shard == "shards/00001.safetensors"
    shard.unlink()
    with pytest.raises(DataError, match="is missing") as caught:
        ShardedDataset.open(tmp_path)
    assert caught.value.shard == "shards/00001.safetensors"


def test_a_shard_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, numbered_rows(40))
    dataset = ShardedDataset.open(tmp_path)
    shard = tmp_path / "shards" / "00001.safetensors"
    tensors = safetensors.torch.load(shard.read_bytes())
    save_tensors(shard, {**tensors, SOURCE: tensors[SOURCE].half()})
    with pytest.raises(DataError, match=f"{SOURCE} is .*F16"), dataset.shard(1):
        pass
    save_tensors(shard, {SOURCE: tensors[SOURCE]})
    with pytest.raises(DataError, match="no column document"), dataset.shard(1):
        pass
    shard.write_bytes(b"")
    with (
        pytest.raises(DataError, match="cannot be read as safetensors") as caught,
        dataset.shard(1),
    ):
        pass
    assert caught.value.shard == "shards/00001.safetensors"
