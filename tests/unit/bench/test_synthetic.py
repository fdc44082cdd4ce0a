"""Planted features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bench.planted.synthetic import (
    BLOCK_ROWS,
    MASSIVE_FACTOR,
    PlantedFeatures,
    planted_directions,
    write_synthetic,
)
from tests.fakes.datasets import norms

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.finishing import write_manifest
from saeserve.core.data.shards import open_shard
from saeserve.core.data.writer import DatasetWriter
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.errors import SpecError


def write(folder: Path, **more: int | float) -> DatasetManifest:
    how = {"d": 8, "n_features": 16, "active": 3, "rows": 1500, "seed": 2, "shard_rows": 512}
    return write_synthetic(folder, name="planted", **{**how, **more})  # type: ignore[arg-type]


def stored(folder: Path, manifest: DatasetManifest) -> torch.Tensor:
    parts: list[torch.Tensor] = []
    for entry in manifest.shards:
        with open_shard(folder, entry.file) as shard:
            parts.append(shard.take("activations", np.arange(entry.rows)).clone())
    return torch.cat(parts)


def test_rows_are_sparse_sums_of_unit_directions() -> None:
    planted = PlantedFeatures(d=8, n_features=16, active=3, seed=2, offset=4.0)
    x_BD, f_BF = planted.block(1)
    assert x_BD.shape == (BLOCK_ROWS, 8)
    assert ((f_BF != 0).sum(1) == 3).all()
    assert f_BF[f_BF != 0].min() >= 0.5
    assert f_BF.max() < 1.5
    torch.testing.assert_close(norms(planted.directions()).float(), torch.ones(16))
    assert float(norms(planted.mean()[None])) == pytest.approx(4.0, rel=1e-5)
    torch.testing.assert_close(x_BD, f_BF @ planted.directions() + planted.mean())
    assert not torch.equal(f_BF, planted.block(0)[1])


def test_every_feature_fires_about_equally_often() -> None:
    fires = (PlantedFeatures(d=8, n_features=16, active=4, seed=0).block(0)[1] != 0).float()
    assert ((fires.mean(0) - 0.25).abs() < 0.08).all()


def test_noise_has_the_length_that_was_asked_for() -> None:
    clean = PlantedFeatures(d=64, n_features=16, active=4, seed=0)
    noisy = PlantedFeatures(d=64, n_features=16, active=4, seed=0, noise=2.0)
    assert torch.equal(clean.block(3)[1], noisy.block(3)[1])
    lengths = norms(noisy.block(3)[0] - clean.block(3)[0])
    assert float(lengths.mean()) == pytest.approx(2.0, rel=0.02)


def test_what_is_written_is_what_was_planted(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    planted = PlantedFeatures(d=8, n_features=16, active=3, seed=2)
    expected = torch.cat([planted.block(0)[0], planted.block(1)[0]])[:1500]
    assert torch.equal(stored(tmp_path, manifest), expected)
    assert 0 < manifest.heldout_rows < 500
    write_manifest(tmp_path, manifest)
    assert ShardedDataset.open(tmp_path).manifest == manifest


def test_massive_rows_are_planted_and_counted(tmp_path: Path) -> None:
    plain = stored(tmp_path / "a", write(tmp_path / "a"))
    manifest = write(tmp_path / "b", massive_rows=3)
    ratio = norms(stored(tmp_path / "b", manifest)) / norms(plain)
    assert np.flatnonzero(ratio.numpy() > 2).tolist() == [0, 500, 1000]
    assert float(ratio.max()) == pytest.approx(MASSIVE_FACTOR)
    assert manifest.sources[0].massive_rows == 3


def test_the_seed_decides(tmp_path: Path) -> None:
    same = [write(tmp_path / str(i)).sha256 for i in range(2)]
    assert same[0] == same[1] != write(tmp_path / "other", seed=3).sha256
    a, b = (planted_directions(d=8, n_features=16, seed=seed) for seed in (2, 3))
    assert not torch.equal(a, b)


def test_writing_goes_on_after_the_last_whole_shard(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", rows=1200)
    planted = PlantedFeatures(d=8, n_features=16, active=3, seed=2)
    write(tmp_path / "part", rows=600)
    assert DatasetWriter(tmp_path / "part", {"activations": 8}, "float32", 512).rows_done == 512
    resumed = write(tmp_path / "part", rows=1200)
    assert resumed.sha256 == whole.sha256
    assert torch.equal(stored(tmp_path / "part", resumed)[:BLOCK_ROWS], planted.block(0)[0])


def test_more_active_features_than_there_are_is_an_error() -> None:
    with pytest.raises(SpecError, match="17 of 16 features"):
        PlantedFeatures(d=8, n_features=16, active=17, seed=0)
