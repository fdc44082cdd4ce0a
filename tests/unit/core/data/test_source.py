"""The stream of training rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.datasets import SOURCE, heldout_mask, numbered_rows, write_dataset

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.source import ActivationSource, ShardSource
from saeserve.errors import DataError, DataMismatchError

ROWS = 100
MASSIVE = (17, 60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    x_ND = numbered_rows(ROWS)
    x_ND[list(MASSIVE), 1] = 1e6
    write_dataset(folder, x_ND)
    return folder


@pytest.fixture(scope="module")
def kept(folder: Path) -> list[int]:
    """Numbers of the rows that take part."""
    train = ~heldout_mask(ShardedDataset.open(folder).manifest, ROWS)
    return [int(row) for row in np.flatnonzero(train) if row not in MASSIVE]


def source(
    folder: Path, *, seed: int = 0, window: int = 2, norm_cut: float = 5.0
) -> ActivationSource:
    dataset = ShardedDataset.open(folder)
    return ShardSource(dataset, SOURCE, norm_cut=norm_cut, seed=seed, window_shards=window)


def numbers(x_BD: torch.Tensor) -> list[int]:
    return [int(value) for value in x_BD[:, 0]]


def test_every_epoch_is_a_permutation_of_the_kept_rows(folder: Path, kept: list[int]) -> None:
    stream = source(folder)
    assert (stream.rows, stream.d) == (len(kept), 4)
    epochs = [numbers(stream.batch(epoch * stream.rows, stream.rows)) for epoch in range(3)]
    assert all(sorted(epoch) == kept for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != kept


@settings(max_examples=30, deadline=None)
@given(position=st.integers(0, 500), size=st.integers(0, 200), window=st.integers(1, 9))
def test_a_batch_is_its_single_rows_from_anywhere(
    folder: Path, position: int, size: int, window: int
) -> None:
    stream = source(folder, seed=3, window=window)
    batch = stream.batch(position, size)
    assert batch.shape == (size, 4)
    fresh = source(folder, seed=3, window=window)
    alone = [fresh.batch(position + i, 1) for i in range(size)]
    assert torch.equal(batch, torch.cat([torch.empty((0, 4)), *alone]))


def test_a_resumed_stream_goes_on_with_the_same_rows(folder: Path) -> None:
    whole = source(folder, seed=9).batch(0, 300)
    resumed = source(folder, seed=9)
    assert torch.equal(torch.cat([resumed.batch(p, 50) for p in range(150, 300, 50)]), whole[150:])


def test_the_seed_decides_the_order(folder: Path) -> None:
    streams = [numbers(source(folder, seed=seed).batch(0, 60)) for seed in (0, 0, 1, 2**63 - 1)]
    assert streams[0] == streams[1]
    assert streams[0] != streams[2] != streams[3]


def test_without_a_cut_massive_rows_take_part(folder: Path, kept: list[int]) -> None:
    train = ~heldout_mask(ShardedDataset.open(folder).manifest, ROWS)
    stream = source(folder, norm_cut=0.0)
    assert sorted(numbers(stream.batch(0, stream.rows))) == np.flatnonzero(train).tolist()
    assert stream.rows == len(kept) + sum(bool(train[row]) for row in MASSIVE) > len(kept)


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_a_sample_holds_distinct_kept_rows(folder: Path, kept: list[int], n: int) -> None:
    sample = source(folder).sample(n, seed=4)
    found = numbers(sample)
    assert len(found) == len(set(found)) == min(n, len(kept))
    assert set(found) <= set(kept)
    assert torch.equal(sample, source(folder, seed=99).sample(n, seed=4))
    if n == 10:
        assert found != numbers(source(folder).sample(n, seed=5))
        assert max(found) - min(found) > ROWS // 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rows_come_out_in_float32(tmp_path: Path, dtype: str) -> None:
    x_ND = torch.randn((30, 6), generator=torch.Generator().manual_seed(2))
    narrow = x_ND.to(getattr(torch, dtype)).float()
    write_dataset(tmp_path, narrow, dtype=dtype, heldout_fraction=0.0)  # type: ignore[arg-type]
    stream = source(tmp_path, norm_cut=0.0)
    found = stream.batch(0, 30)
    assert found.dtype == torch.float32
    assert torch.equal(found[:, 0].sort().values, narrow[:, 0].sort().values)


def test_a_cut_that_leaves_nothing_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="no training rows of norm up to") as caught:
        source(folder, norm_cut=0.001)
    assert "norm_cut" in caught.value.remedy


def test_an_unknown_source_is_an_error(folder: Path) -> None:
    with pytest.raises(DataMismatchError, match="no source 'mlp_out"):
        ShardSource(ShardedDataset.open(folder), "mlp_out.1", norm_cut=5.0, seed=0, window_shards=2)
