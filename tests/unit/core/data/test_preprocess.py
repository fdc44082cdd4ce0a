"""Centring and scaling."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.fakes.datasets import SOURCE, norms, write_dataset
from tests.fakes.lanes import LateLane
from tests.fakes.synthetic import write_synthetic

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.finishing import write_manifest
from saeserve.core.data.preprocess import Preprocessing, fit_preprocessing, fit_side_by_side
from saeserve.core.data.source import ShardSource
from saeserve.core.specs.training import PreprocessSpec
from saeserve.errors import DataError

D = 12


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> ShardSource:
    """Off-centre rows, some of them massive, in two shards and more."""
    folder = tmp_path_factory.mktemp("planted")
    manifest = write_synthetic(
        folder,
        name="planted",
        d=D,
        n_features=20,
        active=3,
        rows=1500,
        seed=5,
        offset=30.0,
        massive_rows=4,
        shard_rows=600,
    )
    assert manifest.sources[0].massive_rows == 4
    write_manifest(folder, manifest)
    dataset = ShardedDataset.open(folder)
    return ShardSource(dataset, "activations", norm_cut=5.0, seed=1, window_shards=2)


def kept_rows(stream: ShardSource) -> torch.Tensor:
    return stream.batch(0, stream.rows)


def test_kept_rows_are_centred_and_of_mean_norm_root_d(stream: ShardSource) -> None:
    preprocessing = fit_preprocessing(stream, PreprocessSpec())
    x_ND = preprocessing.apply(kept_rows(stream)).double()
    assert float(norms(x_ND).mean()) / math.sqrt(D) == pytest.approx(1.0, abs=1e-5)
    assert float(norms(x_ND.mean(0)[None])) / math.sqrt(D) < 1e-5
    assert preprocessing.mean_D.dtype == torch.float32
    assert float(norms(preprocessing.mean_D[None])) > 20.0


def test_without_centring_the_mean_is_zero(stream: ShardSource) -> None:
    preprocessing = fit_preprocessing(stream, PreprocessSpec(centre="none"))
    assert torch.equal(preprocessing.mean_D, torch.zeros(D))
    lengths = norms(preprocessing.apply(kept_rows(stream)))
    assert float(lengths.mean()) / math.sqrt(D) == pytest.approx(1.0, abs=1e-5)


def test_a_mean_norm_of_ones_own_stands_in_place_of_root_d(stream: ShardSource) -> None:
    plain = fit_preprocessing(stream, PreprocessSpec())
    unit = fit_preprocessing(stream, PreprocessSpec(mean_norm=1.0))
    assert float(norms(unit.apply(kept_rows(stream))).mean()) == pytest.approx(1.0, abs=1e-5)
    assert unit.scale == pytest.approx(plain.scale / math.sqrt(D))
    assert torch.equal(unit.mean_D, plain.mean_D)


def test_without_scaling_rows_are_only_centred(stream: ShardSource) -> None:
    preprocessing = fit_preprocessing(stream, PreprocessSpec(scale=False))
    x_ND = kept_rows(stream)
    assert preprocessing.scale == 1.0
    torch.testing.assert_close(preprocessing.mean_D, x_ND.mean(0))
    torch.testing.assert_close(preprocessing.apply(x_ND), x_ND - preprocessing.mean_D)


def test_apply_centres_before_it_scales() -> None:
    preprocessing = Preprocessing(torch.tensor([1.0, 2.0]), 3.0)
    found = preprocessing.apply(torch.tensor([[2.0, 4.0]]))
    assert torch.equal(found, torch.tensor([[3.0, 6.0]]))


def test_rows_that_do_not_differ_have_no_scale(tmp_path: Path) -> None:
    write_dataset(tmp_path, torch.ones((20, 4)), heldout_fraction=0.0)
    dataset = ShardedDataset.open(tmp_path)
    same = ShardSource(dataset, SOURCE, norm_cut=5.0, seed=0, window_shards=1)
    with pytest.raises(DataError, match="every training row equals the mean") as caught:
        fit_preprocessing(same, PreprocessSpec())
    assert "preprocess.scale" in caught.value.remedy


def test_an_accelerator_reads_the_files_in_their_order_and_finds_the_same(
    stream: ShardSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, widths = LateLane(), (5, D - 5)
    wanted = fit_side_by_side(stream, widths, PreprocessSpec())
    monkeypatch.setattr(stream, "batch", None)
    found = fit_side_by_side(stream, widths, PreprocessSpec(), lane)
    for one, other in zip(found.parts, wanted.parts, strict=True):
        torch.testing.assert_close(one.mean_D, other.mean_D, rtol=1e-6, atol=1e-6)
        assert one.scale == pytest.approx(other.scale, rel=1e-9)
    assert lane.faults == []
    assert lane.staged


class Nothing:
    """A source without rows."""

    d = 3
    rows = 0

    def batch(self, position: int, size: int) -> torch.Tensor:
        raise AssertionError

    def sample(self, n: int, seed: int) -> torch.Tensor:
        raise AssertionError


def test_no_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="no training rows"):
        fit_preprocessing(Nothing(), PreprocessSpec())
