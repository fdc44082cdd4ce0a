"""A device's rows are checked and written by a thread: the same bytes, and errors as before."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saeserve.core.data.writer import DatasetWriter, RowBlock
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import HarvestSpec, StorageType
from saeserve.errors import DataError, NoSpaceError
from saeserve.harvest import run as run_module
from saeserve.harvest.events import HarvestFinished, HarvestStopped
from saeserve.harvest.handover import ON_THEIR_WAY, Background, Direct, handing_over
from saeserve.harvest.run import run_harvest

D = 6
ORIGINS = ["a.txt", "b.txt"]


@dataclass(frozen=True)
class Delayed:
    """Copies that are made when somebody waits for them."""

    pairs: Sequence[tuple[Tensor, Tensor]]

    def synchronize(self) -> None:
        for there, here in self.pairs:
            here.copy_(there)


class LateCopies:
    """Memory that holds other numbers until the copy, which is made as late as can be."""

    def __init__(self) -> None:
        self.made = 0

    def memory(self, size: int) -> Tensor:
        self.made += 1
        return torch.full((size,), 0x3C, dtype=torch.uint8)

    def start(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Delayed:
        return Delayed(pairs)


def block_of(rows: int, seed: int) -> RowBlock:
    x_ND = 3 * torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))
    numbers = np.arange(rows, dtype=np.int32)
    return RowBlock({"a": x_ND, "b": -x_ND}, numbers % 2, numbers, numbers, numbers)


def writer_of(folder: Path, dtype: StorageType = "float16") -> DatasetWriter:
    return DatasetWriter(folder, {"a": D, "b": D}, dtype, 7)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


@contextlib.contextmanager
def background(writer: DatasetWriter, copies: LateCopies) -> Generator[Background]:
    made = Background(writer, "float16", ORIGINS, copies)
    try:
        yield made
    finally:
        made.close()


def test_the_thread_writes_what_is_written_directly(tmp_path: Path) -> None:
    blocks = [block_of(rows, seed) for seed, rows in enumerate((5, 9, 1, 14, 3, 9))]
    direct, copies = writer_of(tmp_path / "direct"), LateCopies()
    for block in blocks:
        Direct(direct, "float16", ORIGINS).add(block)
    direct.close()
    late = writer_of(tmp_path / "late")
    with background(late, copies) as handover:
        for block in blocks:
            handover.add(block)
        handover.finish()
    late.close()
    assert late.shards == direct.shards
    assert bytes_of(tmp_path / "late") == bytes_of(tmp_path / "direct")
    # Each place grows once for the larger of its blocks, or twice.
    assert copies.made <= 2 * ON_THEIR_WAY


def test_the_forward_pass_is_at_most_two_batches_ahead(tmp_path: Path) -> None:
    gate, added = threading.Event(), threading.Semaphore(0)

    class Slow(DatasetWriter):
        def add(self, block: RowBlock) -> None:
            assert gate.wait(30)
            super().add(block)

    writer = Slow(tmp_path / "set", {"a": D, "b": D}, "float16", 7)
    with background(writer, LateCopies()) as handover:

        def forward() -> None:
            for seed in range(4):
                handover.add(block_of(3, seed))
                added.release()

        thread = threading.Thread(target=forward)
        thread.start()
        for _ in range(ON_THEIR_WAY):
            assert added.acquire(timeout=30)
        assert not added.acquire(timeout=0.2)
        gate.set()
        thread.join(30)
        handover.finish()
    assert writer.rows_done == 7


def test_bad_values_are_named_and_end_what_follows(tmp_path: Path) -> None:
    bad = block_of(4, 0)
    bad.tensors["b"][2, 5] = 1e6
    writer = writer_of(tmp_path / "set")
    with background(writer, LateCopies()) as handover:
        handover.add(bad)
        pattern = r"b, dimension 5, is 1e\+06 in document a\.txt, .* beyond float16's range"
        # One may be given before the thread has looked at the first.
        with contextlib.suppress(DataError):
            handover.add(block_of(9, 1))
            handover.add(block_of(9, 2))
        with pytest.raises(DataError, match=pattern):
            handover.add(block_of(9, 3))
        with pytest.raises(DataError, match=pattern):
            handover.finish()
    assert writer.rows_done == 0


def test_a_full_disk_ends_the_harvest(tmp_path: Path) -> None:
    class Full(DatasetWriter):
        def add(self, block: RowBlock) -> None:
            raise NoSpaceError("the disk is full")

    writer = Full(tmp_path / "set", {"a": D, "b": D}, "float16", 7)
    with background(writer, LateCopies()) as handover:
        handover.add(block_of(3, 0))
        with pytest.raises(NoSpaceError):
            handover.finish()


def test_the_cpu_writes_where_it_computes(tmp_path: Path) -> None:
    writer = writer_of(tmp_path / "set")
    with handing_over(writer, "float16", ORIGINS, torch.device("cpu")) as handover:
        assert isinstance(handover, Direct)
        handover.add(block_of(7, 0))
        assert writer.rows_done == 7


def spec_of(dtype: str) -> HarvestSpec:
    value: dict[str, object] = {
        "dataset": "tiny",
        "language_model": {"path": "models:tiny"},
        "texts": [{"path": "texts:a.txt", "format": "lines"}],
        "sites": [{"hook": "resid_post", "layer": 1}, {"hook": "mlp_out", "layer": 0}],
        "context_length": 8,
        "dtype": dtype,
        "heldout_fraction": 0.3,
        "shard_rows": 20,
        "batch_sequences": 2,
        "compute_dtype": "float32",
        "device": "cpu",
    }
    return HarvestSpec.parse(value, "harvest")


def harvest(spec: HarvestSpec, resolve: Callable[[str], Path], folder: Path) -> DatasetManifest:
    *_, last = run_harvest(spec, resolve, folder, lambda: False)
    assert isinstance(last, HarvestFinished)
    return last.manifest


@pytest.fixture
def text(resolve: Callable[[str], Path]) -> None:
    lines = [f"w{i % 9} w{i % 7} w{i % 5}" for i in range(30)]
    resolve("texts:a.txt").write_text("\n".join(lines))


@pytest.fixture
def by_thread(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Harvest by the thread from then on."""

    @contextlib.contextmanager
    def handing(
        writer: DatasetWriter, dtype: StorageType, origins: Sequence[str], device: torch.device
    ) -> Generator[Background]:
        assert device.type == "cpu"
        made = Background(writer, dtype, origins, LateCopies())
        try:
            yield made
        finally:
            made.close()

    return lambda: monkeypatch.setattr(run_module, "handing_over", handing)


@pytest.mark.usefixtures("text")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_harvest_by_the_thread_has_the_same_bytes(
    resolve: Callable[[str], Path], tmp_path: Path, by_thread: Callable[[], None], dtype: str
) -> None:
    spec, calls = spec_of(dtype), iter([False] * (30 + 9))
    whole = harvest(spec, resolve, tmp_path / "direct")
    by_thread()
    # 30 documents are surveyed, and nine batches forwarded.
    stop = lambda: next(calls, True)  # noqa: E731
    *_, stopped = run_harvest(spec, resolve, tmp_path / "thread", stop)
    assert isinstance(stopped, HarvestStopped)
    assert stopped.rows_done % spec.shard_rows == 0
    assert harvest(spec, resolve, tmp_path / "thread") == whole
    assert bytes_of(tmp_path / "thread") == bytes_of(tmp_path / "direct")
