"""Manifests: split, medians, massive rows, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.datasets import SOURCE, documents, norms, numbered_rows, row_block, write_dataset

from saeserve.core.data.finishing import (
    MANIFEST_FILE,
    DocumentOrigin,
    SourceOrigin,
    exact_median,
    finish_manifest,
    write_manifest,
)
from saeserve.core.data.shards import FloatArray
from saeserve.core.data.writer import DatasetWriter
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.errors import DataError, FormatError

NORMS = st.lists(
    st.floats(0, float(np.finfo(np.float32).max), width=32, allow_subnormal=True), min_size=1
)


@given(norms=NORMS, cut=st.integers(0, 50))
def test_the_median_is_exact(norms: list[float], cut: int) -> None:
    values = np.array(norms, dtype=np.float32)

    def columns() -> Iterator[FloatArray]:
        yield values[:cut]
        yield values[cut:]

    assert exact_median(columns) == np.median(values.astype(np.float64))


def test_the_manifest_describes_what_was_written(tmp_path: Path) -> None:
    x_ND = numbered_rows(33)
    manifest = write_dataset(tmp_path, x_ND, shard_rows=16, heldout_fraction=0.3)
    assert manifest.source(SOURCE).median_norm == float(norms(x_ND).float().median())
    assert (manifest.source(None).hook, manifest.source(None).layer) == ("resid_post", 3)
    assert [entry.rows for entry in manifest.shards] == [16, 16, 1]
    assert [entry.rows for entry in manifest.documents] == [5] * 6 + [3]
    for entry in manifest.shards:
        data = (tmp_path / entry.file).read_bytes()
        assert (entry.size_bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    heldout = [entry.rows for entry in manifest.documents if entry.split == "heldout"]
    assert manifest.heldout_rows == sum(heldout) > 0
    assert manifest.rows == 33
    assert DatasetManifest.from_bytes((tmp_path / MANIFEST_FILE).read_bytes()) == manifest


def test_rows_beyond_five_medians_are_counted_as_massive(tmp_path: Path) -> None:
    x_ND = torch.ones((20, 4))
    x_ND[3] *= 5.0
    x_ND[7] *= 5.001
    x_ND[11] *= 400.0
    assert write_dataset(tmp_path, x_ND).source(SOURCE).massive_rows == 2


def test_copies_of_a_document_share_its_split(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 64)
    writer.add(row_block(numbered_rows(50)))
    writer.close()
    copies = [DocumentOrigin(f"copy {i}", documents(9)[i // 2].sha256) for i in range(10)]
    manifest = finish_manifest(
        tmp_path,
        name="copies",
        sources=[SourceOrigin(SOURCE, 4)],
        dtype="float32",
        shards=writer.shards,
        documents=copies,
        heldout_fraction=0.5,
    )
    splits = [entry.split for entry in manifest.documents]
    assert splits[::2] == splits[1::2]
    assert set(splits) == {"train", "heldout"}


def finish(folder: Path, x_ND: torch.Tensor, count: int, fraction: float = 0.1) -> None:
    writer = DatasetWriter(folder, {SOURCE: 4}, "float32", 8)
    writer.add(row_block(x_ND))
    writer.close()
    finish_manifest(
        folder,
        name="bad",
        sources=[SourceOrigin(SOURCE, 4)],
        dtype="float32",
        shards=writer.shards,
        documents=documents(count),
        heldout_fraction=fraction,
    )


def test_a_document_outside_the_table_names_shard_and_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="document 2 is not among the 2") as caught:
        finish(tmp_path, numbered_rows(12), 2)
    assert (caught.value.shard, caught.value.row) == ("shards/00001.safetensors", 2)


def test_nothing_left_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all of 1 documents fell into the held-out split"):
        finish(tmp_path / "a", numbered_rows(5), 1, fraction=0.9999999)
    with pytest.raises(DataError, match="no rows"):
        finish(tmp_path / "b", numbered_rows(0), 0)


def test_mostly_zero_rows_are_an_error(tmp_path: Path) -> None:
    x_ND = torch.zeros((5, 4))
    x_ND[0] = 1.0
    with pytest.raises(DataError, match="at least half of the rows of resid_post") as caught:
        finish(tmp_path, x_ND, 1, fraction=0.0)
    assert caught.value.remedy


def test_the_first_manifest_stays(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, numbered_rows(20))
    write_manifest(tmp_path, manifest.model_copy(update={"job": "j-late"}))
    assert DatasetManifest.from_bytes((tmp_path / MANIFEST_FILE).read_bytes()) == manifest


@pytest.mark.parametrize("data", [b"", b"{", b"7", b'{"format_version": 99}', b"\xff"])
def test_damaged_and_foreign_manifests_are_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError, match="manifest") as caught:
        DatasetManifest.from_bytes(data)
    assert caught.value.remedy
