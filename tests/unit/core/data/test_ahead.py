"""Values made in the background, and windows of shards that are."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from tests.fakes.datasets import SOURCE, numbered_rows, write_dataset
from tests.fakes.worker_bench import until

from saeserve.core.data import ahead
from saeserve.core.data.ahead import Ahead, Background
from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.shards import shard_name
from saeserve.core.data.source import ShardSource
from saeserve.core.data.windows import Window, WindowReader
from saeserve.errors import DataError

SHARD_ROWS, SHARDS, WINDOW = 16, 6, 2


def test_a_value_is_made_at_once_and_on_another_thread() -> None:
    made = threading.Event()

    def make() -> threading.Thread:
        made.set()
        return threading.current_thread()

    reading = Ahead(make, Background())
    assert made.wait(10)
    thread = reading.result()
    assert thread is not threading.current_thread()
    assert thread.daemon


def test_an_error_is_raised_where_the_value_is_wanted() -> None:
    def fail() -> int:
        raise DataError("is missing", shard="shards/00007.safetensors")

    background = Background()
    reading = Ahead(fail, background)
    with pytest.raises(DataError, match="00007"):
        reading.result()
    Ahead(fail, background).discard()


def test_one_thread_makes_every_value_in_order() -> None:
    background = Background()
    readings = [Ahead(threading.get_ident, background) for _ in range(3)]
    assert len({reading.result() for reading in readings}) == 1


def test_the_thread_ends_with_its_owner() -> None:
    background = Background()
    thread = Path(f"/proc/self/task/{Ahead(threading.get_native_id, background).result()}")
    assert thread.exists()
    del background
    until(lambda: not thread.exists())


@pytest.mark.parametrize("error", [None, RuntimeError("can't start new thread")])
def test_a_thread_that_cannot_start_is_lack_of_memory(
    error: RuntimeError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory, the thread may end before its first line: nobody learns of it."""

    def start(*_: object) -> int:
        if error is not None:
            raise error
        return 1

    monkeypatch.setattr(ahead, "LOOK_S", 0.01)
    monkeypatch.setattr("_thread.start_new_thread", start)
    with pytest.raises(MemoryError, match="did not start"):
        Background()


def test_a_thread_that_died_is_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "LOOK_S", 0.01)
    background = Background()

    def die() -> None:
        raise SystemExit

    background.run(die)
    reading = Ahead(lambda: 1, background)
    with pytest.raises(MemoryError, match="ended before"):
        reading.result()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path, numbered_rows(SHARD_ROWS * SHARDS), heldout_fraction=0.0)
    return tmp_path


def opened(folder: Path, window: int = WINDOW) -> ShardSource:
    dataset = ShardedDataset.open(folder)
    return ShardSource(dataset, SOURCE, norm_cut=0.0, seed=5, window_shards=window)


def shards_of(x_BD: torch.Tensor) -> set[int]:
    return {int(number) // SHARD_ROWS for number in x_BD[:, 0]}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Where every window that is read begins, and the thread that reads it."""
    found: list[tuple[int, str]] = []
    load = WindowReader.load

    def noted(self: WindowReader, position: int, before: Window | None) -> Window:
        window = load(self, position, before)
        found.append((window.start, threading.current_thread().name))
        return window

    monkeypatch.setattr(WindowReader, "load", noted)
    return found


def test_the_stream_reads_each_window_once_and_all_but_the_first_ahead(
    folder: Path, loads: list[tuple[int, str]]
) -> None:
    stream, size = opened(folder), SHARD_ROWS * WINDOW
    for position in range(0, 4 * size, 8):
        stream.batch(position, 8)
    stream.batch(4 * size, 1)
    main = threading.current_thread().name
    expected = [(0, main)] + [(start * size, "read-ahead") for start in range(1, 5)]
    assert loads[:5] == expected


def test_a_jump_is_read_at_once_and_the_way_back_too(
    folder: Path, loads: list[tuple[int, str]]
) -> None:
    """As resampling does, which looks at rows far ahead and goes back."""
    stream, size = opened(folder), SHARD_ROWS * WINDOW
    first = stream.batch(0, 8)
    far = stream.batch(9 * size + 3, 8)
    assert torch.equal(stream.batch(0, 8), first)
    assert torch.equal(opened(folder).batch(9 * size + 3, 8), far)
    asked = {start for start, thread in loads if thread != "read-ahead"}
    assert asked == {0, 9 * size}


def test_a_shard_that_is_lost_is_named_when_its_rows_are_due(folder: Path) -> None:
    size = SHARD_ROWS * WINDOW
    lost = min(shards_of(opened(folder).batch(size, size)))
    stream = opened(folder)
    (folder / shard_name(lost)).unlink()
    assert lost not in shards_of(stream.batch(0, size))
    with pytest.raises(DataError, match=shard_name(lost)):
        stream.batch(size, 1)


def test_what_fits_a_window_is_read_once_for_every_epoch(folder: Path) -> None:
    stream, rows = opened(folder, window=SHARDS), SHARD_ROWS * SHARDS
    first = stream.batch(0, rows)
    later = [opened(folder, window=SHARDS).batch(epoch * rows, rows) for epoch in (1, 2)]
    for index in range(SHARDS):
        (folder / shard_name(index)).unlink()
    for epoch, expected in enumerate(later, start=1):
        found = stream.batch(epoch * rows, rows)
        assert torch.equal(found, expected)
        assert not torch.equal(found, first)
        assert torch.equal(found[:, 0].sort().values, first[:, 0].sort().values)
