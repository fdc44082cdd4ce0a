"""Sums that a data set brings along, in place of two passes over its rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.fakes.datasets import SOURCE, documents, row_block, write_dataset
from torch import Tensor

from saeserve.core.data import sums as module
from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.finishing import SourceOrigin, finish_manifest
from saeserve.core.data.preprocess import SideBySide, fit_side_by_side, from_sums
from saeserve.core.data.source import ShardSource
from saeserve.core.data.sums import SUMS_FILE, read_sums, with_sums
from saeserve.core.data.writer import DatasetWriter, RowBlock
from saeserve.core.specs.training import PreprocessSpec
from saeserve.errors import DataError

D = 6


def going() -> bool:
    return False


def rows(seed: int, massive: tuple[int, ...] = (), factor: float = 50.0) -> Tensor:
    """Off-centre rows; those numbered `massive` are longer."""
    x_ND = 3.0 + torch.randn(90, D, generator=torch.Generator().manual_seed(seed))
    x_ND[list(massive)] *= factor
    return x_ND


def one_source(folder: Path, x_ND: Tensor) -> ShardedDataset:
    complete = with_sums(folder, write_dataset(folder, x_ND), going)
    assert complete is not None
    return ShardedDataset(folder, complete)


def two_sources(folder: Path, first_ND: Tensor, second_ND: Tensor) -> ShardedDataset:
    block = row_block(first_ND)
    both = RowBlock(
        {"a": first_ND, "b": second_ND},
        block.document,
        block.sequence,
        block.position,
        block.token_id,
    )
    writer = DatasetWriter(folder, {"a": D, "b": D}, "float32", 16)
    writer.add(both)
    writer.close()
    manifest = finish_manifest(
        folder,
        name="two",
        sources=[SourceOrigin("a", D), SourceOrigin("b", D)],
        dtype="float32",
        shards=writer.shards,
        documents=documents(18),
        heldout_fraction=0.2,
    )
    complete = with_sums(folder, manifest, going)
    assert complete is not None
    return ShardedDataset(folder, complete)


def found(dataset: ShardedDataset, *names: str, **fields: object) -> SideBySide | None:
    """What sums tell of a job; where they tell it, it is what going through the rows finds."""
    spec = PreprocessSpec.parse(fields, "preprocess")
    source = ShardSource(dataset, names, norm_cut=spec.norm_cut, seed=1, window_shards=2)
    known = from_sums([read_sums(dataset, name) for name in names], source.rows, spec)
    if known is None:
        return None
    wanted = fit_side_by_side(source, [D] * len(names), spec)
    for one, other in zip(known.parts, wanted.parts, strict=True):
        torch.testing.assert_close(one.mean_D, other.mean_D, rtol=2e-7, atol=2e-7)
        assert one.scale == pytest.approx(other.scale, rel=1e-7)
    return known


@pytest.mark.parametrize(
    "fields", [{}, {"centre": "none"}, {"scale": False}, {"mean_norm": 1.0}], ids=str
)
def test_sums_tell_what_going_through_the_rows_finds(
    fields: dict[str, object], tmp_path: Path
) -> None:
    dataset = one_source(tmp_path, rows(0, massive=(3, 40)))
    assert dataset.manifest.sources[0].massive_rows == 2
    assert found(dataset, SOURCE, **fields) is not None


def test_a_cut_that_keeps_the_same_rows_is_known_and_another_is_not(tmp_path: Path) -> None:
    dataset = one_source(tmp_path, rows(0, massive=(3, 40)))
    assert found(dataset, SOURCE, norm_cut=4.0) is not None
    assert found(dataset, SOURCE, norm_cut=1.0) is None
    assert found(dataset, SOURCE, norm_cut=0.0) is None


def test_several_sources_are_known_where_each_keeps_what_all_keep(tmp_path: Path) -> None:
    alike = two_sources(tmp_path / "alike", rows(1, (4,)), rows(2, (4,)))
    assert found(alike, "a", "b") is not None
    apart = two_sources(tmp_path / "apart", rows(1, (4,)), rows(2, (5,)))
    assert found(apart, "a", "b") is None
    assert found(apart, "b") is not None


def test_as_many_rows_of_another_choice_are_not_taken_for_the_same(tmp_path: Path) -> None:
    """Each source cuts a row of its own at a cut of 20, where sums leave out one more of each."""
    first, second = rows(1, (4,)), rows(2, (5,))
    first[6] *= 12.0
    second[6] *= 12.0
    dataset = two_sources(tmp_path, first, second)
    kept = dataset.kept_counts(("a", "b"), "train", 20.0)
    stored = read_sums(dataset, "a")
    assert stored is not None
    assert stored.rows == sum(kept)
    assert found(dataset, "a", "b", norm_cut=20.0) is None


def test_data_sets_of_older_releases_have_none(tmp_path: Path) -> None:
    dataset = ShardedDataset(tmp_path, write_dataset(tmp_path, rows(0)))
    assert read_sums(dataset, SOURCE) is None
    assert found(dataset, SOURCE) is None


@pytest.mark.parametrize("calls", [0, 7])
def test_who_is_stopped_names_no_sums(calls: int, tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, rows(0))
    assert with_sums(tmp_path, manifest, stop_after(calls)) is None
    assert not (tmp_path / SUMS_FILE).exists()


def stop_after(calls: int) -> Callable[[], bool]:
    left = iter([False] * calls)
    return lambda: next(left, True)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    dataset = one_source(tmp_path, rows(0))
    path = tmp_path / SUMS_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=f"{SUMS_FILE}.*were changed"):
        read_sums(dataset, SOURCE)


def test_the_number_of_threads_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_VALUES", 7 * D)
    before = torch.get_num_threads()
    digests = set[str]()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        entry = one_source(tmp_path / str(threads), rows(0)).manifest.sums
        assert entry is not None
        digests.add(entry.sha256)
    torch.set_num_threads(before)
    assert len(digests) == 1
