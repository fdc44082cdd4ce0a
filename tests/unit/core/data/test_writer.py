"""Writing shards: round trips, resumption, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.datasets import SOURCE, norms, numbered_rows, row_block

from saeserve.core.data.shards import COLUMNS, open_shard
from saeserve.core.data.writer import DatasetWriter, RowBlock
from saeserve.core.specs.jobs import StorageType
from saeserve.errors import DataError, NoSpaceError, SpecError


def read_back(folder: Path, writer: DatasetWriter, rows: int) -> tuple[torch.Tensor, list[int]]:
    parts: list[torch.Tensor] = []
    tokens: list[int] = []
    for entry in writer.shards:
        with open_shard(folder, entry.file) as shard:
            assert shard.rows == entry.rows
            parts.append(shard.take(SOURCE, np.arange(shard.rows)).float())
            tokens += shard.column("token_id").tolist()
            stored = torch.as_tensor(shard.norms(SOURCE).copy())
        torch.testing.assert_close(stored, norms(parts[-1]).float())
    assert sum(len(part) for part in parts) == rows
    return torch.cat(parts), tokens


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 40), max_size=5),
    shard_rows=st.integers(1, 17),
    dtype=st.sampled_from(["float16", "bfloat16", "float32"]),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    shard_rows: int,
    dtype: StorageType,
) -> None:
    folder = tmp_path_factory.mktemp("data")
    x_ND = torch.randn((40, 3), generator=torch.Generator().manual_seed(1))
    writer = DatasetWriter(folder, {SOURCE: 3}, dtype, shard_rows)
    edges = [0, *sorted(cuts), 40]
    for start, stop in pairwise(edges):
        writer.add(row_block(x_ND[start:stop], start))
    writer.close()
    found, tokens = read_back(folder, writer, 40)
    stored = x_ND.to({"float16": torch.float16, "bfloat16": torch.bfloat16}.get(dtype, x_ND.dtype))
    assert torch.equal(found, stored.float())
    assert tokens == list(range(7, 47))
    assert writer.rows_done == 40
    for entry in writer.shards:
        data = (folder / entry.file).read_bytes()
        assert (entry.size_bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_writer_that_died_is_resumed_after_its_last_whole_shard(tmp_path: Path) -> None:
    x_ND = numbered_rows(50)
    dead = DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 16)
    dead.add(row_block(x_ND[:40]))
    (tmp_path / "shards" / ".00002.safetensors.ab.tmp").write_bytes(b"half")

    again = DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 16)
    assert again.rows_done == 32
    assert again.shards == dead.shards
    again.add(row_block(x_ND[again.rows_done :], again.rows_done))
    again.close()
    assert torch.equal(read_back(tmp_path, again, 50)[0], x_ND)
    assert len(list((tmp_path / "shards").iterdir())) == 4


def test_a_last_short_shard_is_written_anew(tmp_path: Path) -> None:
    x_ND = numbered_rows(20)
    finished = DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 16)
    finished.add(row_block(x_ND))
    finished.close()
    again = DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 16)
    assert again.rows_done == 16
    again.add(row_block(x_ND[16:], 16))
    again.close()
    assert again.shards == finished.shards


def test_a_shard_that_a_fenced_writer_left_is_kept(tmp_path: Path) -> None:
    x_ND = numbered_rows(16)
    ours = DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 16)
    theirs = DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 16)
    theirs.add(row_block(x_ND))
    ours.add(row_block(x_ND))
    assert ours.shards == theirs.shards


def test_shards_of_another_layout_are_refused(tmp_path: Path) -> None:
    DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 8).add(row_block(numbered_rows(8)))
    with pytest.raises(DataError, match="not a shard of this data set") as caught:
        DatasetWriter(tmp_path, {SOURCE: 4}, "float16", 8)
    assert caught.value.shard == "shards/00000.safetensors"
    with pytest.raises(DataError, match="not a shard of this data set"):
        DatasetWriter(tmp_path, {"other": 4}, "float32", 8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_values_that_are_not_finite_name_shard_and_row(
    tmp_path: Path, bad: float, dtype: StorageType
) -> None:
    x_ND = torch.ones((12, 4))
    x_ND[10, 2] = bad
    writer = DatasetWriter(tmp_path, {SOURCE: 4}, dtype, 8)
    with pytest.raises(DataError, match=f"{SOURCE}, column 2 is {bad}") as caught:
        writer.add(row_block(x_ND))
    assert (caught.value.shard, caught.value.row) == ("shards/00001.safetensors", 2)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("dtype", "value", "remedy"),
    [("float16", 70_000.0, "bfloat16"), ("bfloat16", 3.4e38, "float32")],
)
def test_values_beyond_the_stored_type_say_which_type_to_use(
    tmp_path: Path, dtype: StorageType, value: float, remedy: str
) -> None:
    x_ND = torch.ones((3, 4))
    x_ND[1, 3] = -value
    with pytest.raises(DataError, match=f"beyond {dtype}'s largest value") as caught:
        DatasetWriter(tmp_path, {SOURCE: 4}, dtype, 8).add(row_block(x_ND))
    assert (caught.value.shard, caught.value.row) == ("shards/00000.safetensors", 1)
    assert remedy in caught.value.remedy


def test_a_norm_beyond_float32_is_refused(tmp_path: Path) -> None:
    x_ND = torch.full((2, 4), 3e38)
    with pytest.raises(DataError, match="exceeds float32") as caught:
        DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 8).add(row_block(x_ND))
    assert caught.value.row == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    writer = DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 8)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpaceError, match="is full") as caught:
        writer.add(row_block(numbered_rows(8)))
    assert caught.value.retryable
    assert list((tmp_path / "shards").iterdir()) == []
    assert writer.shards == ()


def test_other_errors_of_the_disk_are_told_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="bad sector"):
        DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 4).add(row_block(numbered_rows(4)))


def test_rows_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 8)
    good = row_block(numbered_rows(3))
    short = RowBlock(good.tensors, good.document, good.sequence, good.position, good.token_id[:2])
    for block in (row_block(numbered_rows(3, d=5)), short):
        with pytest.raises(DataError, match="do not fit"):
            writer.add(block)


NO_NAMES = ["", "a\nb", "x" * 129, "a[/b]", "bad name", "../x", ".x", "-x", "é", "a:b"]


@pytest.mark.parametrize("name", [*COLUMNS, "norm.x", "__metadata__", *NO_NAMES])
def test_names_that_no_source_may_have_are_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match=r"cannot be called .* a name is 1 to 128 of A-Z a-z 0-9"):
        DatasetWriter(tmp_path, {name: 4}, "float32", 8)


@pytest.mark.parametrize("name", ["resid_post.2", "attn_z.15.head3", "blocks.8.hook", "h/0", "x+y"])
def test_names_of_places_are_taken(tmp_path: Path, name: str) -> None:
    DatasetWriter(tmp_path, {name: 4}, "float32", 8)


def test_shards_need_rows(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="shard_rows"):
        DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 0)


def test_discard_removes_every_shard(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, {SOURCE: 4}, "float32", 4)
    writer.add(row_block(numbered_rows(6)))
    writer.discard()
    writer.close()
    assert writer.shards == ()
    assert not (tmp_path / "shards").exists()
