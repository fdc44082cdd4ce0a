"""Several sources of one data set: rows that stay pairs, constants of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.fakes.datasets import documents, norms
from torch import Tensor

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.finishing import SourceOrigin, finish_manifest, write_manifest
from saeserve.core.data.preprocess import (
    Preprocessing,
    SideBySide,
    fit_preprocessing,
    fit_side_by_side,
    mean_of,
)
from saeserve.core.data.source import ShardSource
from saeserve.core.data.writer import DatasetWriter, RowBlock
from saeserve.core.specs.training import PreprocessSpec
from saeserve.errors import DataError, DataMismatchError

ROWS, D_A, D_B = 120, 4, 3
MASSIVE_A, MASSIVE_B = 17, 63


def rows_of(d: int, size: float, massive: int) -> Tensor:
    """Rows whose first value tells their number; one is massive."""
    x_ND = size * torch.randn(ROWS, d, generator=torch.Generator().manual_seed(d))
    x_ND[:, 0] = size * (10.0 + torch.arange(ROWS) / ROWS)
    x_ND[massive, 1] = 1e4 * size
    return x_ND


A, B = rows_of(D_A, 1.0, MASSIVE_A), rows_of(D_B, 50.0, MASSIVE_B)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardedDataset:
    folder = tmp_path_factory.mktemp("pairs")
    writer = DatasetWriter(folder, {"a": D_A, "b": D_B}, "float32", 16)
    number = np.arange(ROWS, dtype=np.int32)
    writer.add(RowBlock({"a": A, "b": B}, number // 5, number // 5, number % 5, number))
    writer.close()
    manifest = finish_manifest(
        folder,
        name="pairs",
        sources=[SourceOrigin("a", D_A), SourceOrigin("b", D_B)],
        dtype="float32",
        shards=writer.shards,
        documents=documents(ROWS // 5),
        heldout_fraction=0.3,
    )
    write_manifest(folder, manifest)
    return ShardedDataset.open(folder)


def stream(dataset: ShardedDataset, *names: str, norm_cut: float = 5.0) -> ShardSource:
    return ShardSource(dataset, names, norm_cut=norm_cut, seed=1, window_shards=2)


def numbers(x_NC: Tensor) -> list[int]:
    return [round(float(value - 10) * ROWS) for value in x_NC[:, 0]]


def test_columns_stand_side_by_side_in_the_order_asked_for(dataset: ShardedDataset) -> None:
    source = stream(dataset, "a", "b", norm_cut=0.0)
    rows_BC = source.batch(3, 40)
    places = numbers(rows_BC)
    assert source.d == rows_BC.shape[1] == D_A + D_B
    assert torch.equal(rows_BC, torch.cat([A, B], dim=1)[places])
    assert torch.equal(
        stream(dataset, "b", "a", norm_cut=0.0).batch(3, 40),
        torch.cat([B, A], dim=1)[places],
    )
    assert torch.equal(source.sample(20, 3)[:, D_A:], B[numbers(source.sample(20, 3))])


def test_a_row_takes_part_only_if_it_is_kept_in_every_source(dataset: ShardedDataset) -> None:
    both, only_a = stream(dataset, "a", "b"), stream(dataset, "a")
    seen = set(numbers(both.batch(0, both.rows)))
    alone = set(numbers(only_a.batch(0, only_a.rows)))
    assert {MASSIVE_A, MASSIVE_B}.isdisjoint(seen)
    assert alone - seen == {MASSIVE_B} - set(heldout_numbers(dataset, 0.0))


def heldout_numbers(dataset: ShardedDataset, norm_cut: float) -> list[int]:
    blocks = dataset.heldout(["a", "b"], norm_cut=norm_cut, max_rows=0, batch=9)
    return [number for block in blocks for number in numbers(block.x_BD)]


def test_heldout_rows_are_pairs_too(dataset: ShardedDataset) -> None:
    blocks = list(dataset.heldout(["a", "b"], norm_cut=5.0, max_rows=0, batch=9))
    rows_NC = torch.cat([block.x_BD for block in blocks])
    assert torch.equal(rows_NC, torch.cat([A, B], dim=1)[numbers(rows_NC)])
    assert np.concatenate([block.token_id for block in blocks]).tolist() == numbers(rows_NC)
    assert {MASSIVE_A, MASSIVE_B}.isdisjoint(numbers(rows_NC))


def test_an_unknown_source_among_them_is_an_error(dataset: ShardedDataset) -> None:
    with pytest.raises(DataMismatchError, match="no source 'c'"):
        stream(dataset, "a", "c")
    with pytest.raises(DataError, match="a with b has no training rows"):
        stream(dataset, "a", "b", norm_cut=1e-3)


def test_each_source_has_a_mean_and_a_scale_of_its_own(dataset: ShardedDataset) -> None:
    source = stream(dataset, "a", "b")
    fitted = fit_side_by_side(source, (D_A, D_B), PreprocessSpec())
    rows_BC = fitted.apply(source.batch(0, source.rows)).double()
    for part_BS in rows_BC.split_with_sizes([D_A, D_B], dim=1):
        d = part_BS.shape[1]
        assert float(norms(part_BS).mean()) == pytest.approx(d**0.5, rel=1e-5)
        assert float(part_BS.mean(dim=0).abs().max()) < 1e-4
    a, b = fitted.parts
    assert a.scale / b.scale == pytest.approx(50.0, rel=0.3)
    assert torch.equal(mean_of(fitted), torch.cat([a.mean_D, b.mean_D]))


def test_one_source_is_fitted_as_it_always_was(dataset: ShardedDataset) -> None:
    source = stream(dataset, "b")
    alone = fit_preprocessing(source, PreprocessSpec())
    (part,) = fit_side_by_side(source, (D_B,), PreprocessSpec()).parts
    assert part.scale == alone.scale
    assert torch.equal(part.mean_D, alone.mean_D)
    rows_BD = source.batch(0, 10)
    assert torch.equal(SideBySide((alone,)).apply(rows_BD), alone.apply(rows_BD))


def test_a_source_that_does_not_vary_has_no_scale(dataset: ShardedDataset) -> None:
    class Flat:
        d = 3
        rows = 4

        def batch(self, position: int, size: int) -> Tensor:
            return torch.tensor([[1.0, 2.0, 7.0]]).expand(size, 3) * torch.tensor(
                [[1.0 + position + i, 1.0 + i, 1.0] for i in range(size)]
            )

        def sample(self, n: int, seed: int) -> Tensor:
            raise AssertionError

    with pytest.raises(DataError, match="every training row equals the mean"):
        fit_side_by_side(Flat(), (2, 1), PreprocessSpec())


def test_without_centring_or_scaling_rows_stay(dataset: ShardedDataset) -> None:
    spec = PreprocessSpec(centre="none", scale=False)
    fitted = fit_side_by_side(stream(dataset, "a", "b"), (D_A, D_B), spec)
    assert fitted.parts[1].scale == 1.0
    rows_BC = torch.randn(2, D_A + D_B)
    assert torch.equal(fitted.apply(rows_BC), rows_BC)
    assert isinstance(fitted.parts[0], Preprocessing)
