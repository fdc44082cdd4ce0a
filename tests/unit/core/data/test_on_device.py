"""Rows on a device that is late: the same as ever, staged, resident or as they come."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from tests.fakes.lanes import LateLane
from tests.fakes.sources import MemorySource
from tests.fakes.synthetic import write_synthetic
from torch import Tensor

from saeserve.core.data import on_device, staged, stored
from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.finishing import write_manifest
from saeserve.core.data.lane import HostLane
from saeserve.core.data.on_device import RowsOnDevice
from saeserve.core.data.preprocess import Preprocessing, SideBySide
from saeserve.core.data.source import ActivationSource, ShardSource
from saeserve.core.data.staged import Filled, Reader

D = 6
PREPROCESSING = SideBySide((Preprocessing(torch.full((D,), 0.5), 2.0),))
BLOCKS = [(0, 16), (16, 16), (32, 16), (48, 16), (10, 16), (26, 16), (42, 5), (140, 40), (64, 16)]
"""In order, back, of another size, over an epoch's end, and on from the middle."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    manifest = write_synthetic(
        folder,
        name="planted",
        d=D,
        n_features=9,
        active=2,
        rows=180,
        seed=5,
        shard_rows=40,
        dtype="float16",
    )
    write_manifest(folder, manifest)
    return folder


def shards(folder: Path) -> ShardSource:
    dataset = ShardedDataset.open(folder)
    return ShardSource(dataset, "activations", norm_cut=5.0, seed=1, window_shards=2)


def expected(source: ActivationSource) -> list[Tensor]:
    return [2.0 * (source.batch(*block) - 0.5) for block in BLOCKS]


def agree(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(map(torch.equal, found, wanted)) and len(found) == len(wanted)


@pytest.mark.parametrize("free", [0, 2**30])
def test_rows_are_those_of_the_cpu(folder: Path, free: int) -> None:
    lane = LateLane(free=free)
    rows = RowsOnDevice(shards(folder), PREPROCESSING, lane, wanted=10**6)
    found: list[Tensor] = []
    for block in BLOCKS:
        found.append(rows.read(*block))
        rows.stepped()
    assert agree(found, expected(shards(folder)))
    assert lane.faults == []
    assert all(x_BD.dtype == torch.float32 for x_BD in found)


@pytest.mark.parametrize(
    ("share", "epochs", "stays"), [(1.01, 2.0, True), (0.99, 2.0, False), (1.01, 1.9, False)]
)
def test_a_set_that_fits_and_is_read_twice_stays_and_only_places_are_sent(
    folder: Path, share: float, epochs: float, stays: bool
) -> None:
    source = shards(folder)
    assert source.dtype == torch.float16
    size = source.rows * D * 2
    lane = LateLane(free=int(size / on_device.RESIDENT_SHARE * share))
    rows = RowsOnDevice(source, PREPROCESSING, lane, wanted=int(epochs * source.rows))
    for step in range(on_device.WARM_STEPS + 1):
        rows.read(16 * step, 16)
        assert lane.staged[-1] == (16, D) or step == on_device.WARM_STEPS
        rows.stepped()
    assert lane.staged[-1] == ((16,) if stays else (16, D))


@pytest.mark.parametrize("size", [1, 7 * D * 2, 10**6])
def test_the_table_is_sent_in_pieces(
    folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "SENT_BYTES", size)
    lane = LateLane()
    table_ND = on_device.table_of(shards(folder), lane)
    assert torch.equal(table_ND, torch.cat(list(shards(folder).pieces())))
    assert lane.faults == []
    assert len(lane.staged) == 2


def test_sources_without_stored_rows_are_staged_in_float32() -> None:
    source, lane = MemorySource(torch.randn(50, D)), LateLane(free=2**30)
    rows = RowsOnDevice(source, PREPROCESSING, lane)
    assert agree([rows.read(*block) for block in BLOCKS], expected(source))
    assert lane.faults == []


def test_the_cpu_reads_when_asked_and_stages_nothing(folder: Path) -> None:
    rows = RowsOnDevice(shards(folder), PREPROCESSING, HostLane())
    assert agree([rows.read(*block) for block in BLOCKS], expected(shards(folder)))


def test_a_missing_wait_for_staging_memory_is_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's two slots would be written over while the lane copies them."""

    class Forgetful(staged._Slot):  # pyright: ignore[reportPrivateUsage]
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, None if name == "copied" else value)

    monkeypatch.setattr(staged, "_Slot", Forgetful)
    monkeypatch.setattr(staged, "BLOCKS_AHEAD", 6)
    lane = LateLane()
    rows = RowsOnDevice(shards(folder), PREPROCESSING, lane)
    rows.read(0, 16)
    until = time.monotonic() + 60
    while lane.copies.queued < 7 and time.monotonic() < until:
        time.sleep(0.01)
    rows.read(16, 16)
    assert lane.faults


def test_blocks_are_read_ahead_and_an_error_comes_with_its_block() -> None:
    read: list[int] = []

    def fill(position: int, into_N: Tensor) -> None:
        read.append(position)
        if position == 8:
            raise OSError("the disk is gone")
        into_N.fill_(position)

    reader = Reader(Filled(fill, (), torch.float32), LateLane())
    assert torch.equal(reader.read(0, 4), torch.full((4,), 0.0))
    assert torch.equal(reader.read(4, 4), torch.full((4,), 4.0))
    with pytest.raises(OSError, match="the disk is gone"):
        reader.read(8, 4)
    assert torch.equal(reader.read(12, 4), torch.full((4,), 12.0))
    assert read[:4] == [0, 4, 8, 12]


def test_places_are_those_of_the_table(folder: Path) -> None:
    source = shards(folder)
    table_ND = torch.cat(list(source.pieces()))
    places_N = torch.empty(300, dtype=torch.int64)
    source.places(70, places_N)
    assert torch.equal(table_ND[places_N].float(), source.batch(70, 300))
    into_ND = torch.empty(300, D, dtype=source.dtype)
    source.fill(70, into_ND)
    assert torch.equal(into_ND.float(), source.batch(70, 300))
    assert len(table_ND) == source.rows
