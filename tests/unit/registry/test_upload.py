from __future__ import annotations

import errno
import hashlib
import zlib
from io import FileIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saeserve.core.formats.manifest import DatasetManifest
from saeserve.errors import (
    Conflict,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Overloaded,
    Unavailable,
)
from saeserve.platform.store import ArtifactStore
from saeserve.registry.dataset import UploadHeader
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.roots import Roots
from saeserve.registry.upload import UploadWriter

DATA = bytes(range(256)) * 4


def header(data: bytes = DATA, **changes: str | int) -> UploadHeader:
    values: dict[str, str | int] = {
        "dataset": "acts",
        "file_name": "a.npy",
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return UploadHeader.model_validate(values | changes)


def send(writer: UploadWriter, offset: int, data: bytes) -> None:
    writer.add(offset, data, zlib.crc32(data))


def test_a_whole_upload_gets_its_name(datasets: DatasetRegistry) -> None:
    with datasets.begin_upload(header()) as writer:
        send(writer, 0, DATA[:1000])
        send(writer, 1000, DATA[1000:])
        writer.finish()
    assert datasets.upload("acts", "a.npy").complete
    assert [path.read_bytes() for path in datasets.paths("acts")] == [DATA]


def test_a_broken_upload_goes_on_where_it_was(datasets: DatasetRegistry) -> None:
    with datasets.begin_upload(header()) as writer:
        send(writer, 0, DATA[:300])
    assert datasets.upload("acts", "a.npy").received_bytes == 300
    with pytest.raises(FailedPrecondition, match="300 of 1024"):
        datasets.paths("acts")
    with datasets.begin_upload(header()) as writer:
        assert writer.received_bytes == 300
        send(writer, 300, DATA[300:])
        writer.finish()
    assert datasets.paths("acts")[0].read_bytes() == DATA


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cuts=st.lists(st.integers(0, len(DATA)), max_size=6), breaks=st.sets(st.integers(0, 6)))
def test_any_chunks_and_any_breaks_give_the_same_file(
    datasets: DatasetRegistry, cuts: list[int], breaks: set[int]
) -> None:
    edges = [0, *sorted(cuts), len(DATA)]
    writer = datasets.begin_upload(header()).__enter__()
    for index, (start, end) in enumerate(pairwise(edges)):
        if index in breaks:
            writer.__exit__(None, None, None)
            writer = datasets.begin_upload(header()).__enter__()
        send(writer, start, DATA[start:end])
    writer.finish()
    writer.__exit__(None, None, None)
    assert datasets.paths("acts")[0].read_bytes() == DATA
    datasets.delete("acts")


def test_bad_chunks_are_named_and_change_nothing(datasets: DatasetRegistry) -> None:
    with datasets.begin_upload(header()) as writer:
        send(writer, 0, DATA[:10])
        with pytest.raises(FailedPrecondition, match="10 bytes have arrived") as offset:
            send(writer, 0, DATA[:10])
        with pytest.raises(InvalidInput) as crc:
            writer.add(10, DATA[10:20], 0)
        with pytest.raises(InvalidInput) as size:
            send(writer, 10, DATA)
        assert [caught.value.code for caught in (offset, crc, size)] == [
            "OFFSET_MISMATCH",
            "CRC_MISMATCH",
            "UPLOAD_TOO_LONG",
        ]
        assert writer.received_bytes == 10


def test_a_wrong_sha256_starts_the_file_anew(datasets: DatasetRegistry) -> None:
    wrong = header(sha256="0" * 64)
    with datasets.begin_upload(wrong) as writer:
        send(writer, 0, DATA)
        with pytest.raises(InvalidInput, match="sha256"):
            writer.finish()
    assert datasets.upload("acts", "a.npy").received_bytes == 0
    with datasets.begin_upload(header()) as writer:
        send(writer, 0, DATA)
        writer.finish()
    assert datasets.upload("acts", "a.npy").complete


def test_an_unfinished_upload_keeps_its_bytes(datasets: DatasetRegistry) -> None:
    with datasets.begin_upload(header()) as writer:
        send(writer, 0, DATA[:10])
        with pytest.raises(FailedPrecondition, match="10 of 1024"):
            writer.finish()
    assert datasets.upload("acts", "a.npy").received_bytes == 10


def test_a_finished_upload_may_be_asked_for_again(datasets: DatasetRegistry) -> None:
    for _ in range(2):
        with datasets.begin_upload(header()) as writer:
            if writer.received_bytes == 0:
                send(writer, 0, DATA)
            writer.finish()
    assert datasets.paths("acts")[0].read_bytes() == DATA


def test_another_file_of_that_name_conflicts(datasets: DatasetRegistry) -> None:
    with datasets.begin_upload(header()) as writer:
        send(writer, 0, DATA[:10])
    with pytest.raises(Conflict, match="10 bytes of another"):
        datasets.begin_upload(header(b"other"))


def test_two_writers_never_share_a_file(datasets: DatasetRegistry) -> None:
    with datasets.begin_upload(header()), pytest.raises(Conflict, match="another upload"):
        datasets.begin_upload(header()).__enter__()
    with datasets.begin_upload(header()) as writer:
        assert writer.received_bytes == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dataset": "A"}, "header.dataset"),
        ({"file_name": "../a.npy"}, "header.file_name"),
        ({"file_name": "a.pt"}, "header.file_name"),
        ({"size_bytes": 0}, "header.size_bytes"),
        ({"sha256": "abc"}, "header.sha256"),
    ],
)
def test_a_bad_header_makes_no_data_set(
    datasets: DatasetRegistry, changes: dict[str, str | int], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        datasets.begin_upload(header().model_copy(update=changes))
    assert caught.value.field == field
    assert datasets.names() == []


class Disk:
    """A disk of 10,000 bytes, of which `free` are free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free = free
        monkeypatch.setattr("saeserve.platform.store.shutil.disk_usage", self.usage)

    def usage(self, _path: Path) -> SimpleNamespace:
        return SimpleNamespace(total=10_000, used=10_000 - self.free, free=self.free)


@pytest.mark.parametrize(("free", "fits"), [(len(DATA) + 500, True), (len(DATA) + 499, False)])
def test_uploads_are_refused_at_once_that_would_eat_into_the_reserve(
    datasets: DatasetRegistry, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool
) -> None:
    """A twentieth of the disk unless it is set."""
    Disk(monkeypatch, free)
    if fits:
        datasets.begin_upload(header())
        return
    with pytest.raises(Overloaded) as caught:
        datasets.begin_upload(header())
    assert (caught.value.code, caught.value.field) == ("DISK_FULL", "header.size_bytes")
    assert datasets.names() == []


def test_uploads_side_by_side_leave_the_reserve_to_jobs(
    store: ArtifactStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was promised the same space; what arrived stays, and it goes on once there is room."""
    disk = Disk(monkeypatch, 400 + len(DATA))
    datasets = DatasetRegistry(ArtifactStore(store.root, reserve_bytes=400), Roots({}))
    with datasets.begin_upload(header()) as writer:
        send(writer, 0, DATA[:10])
        disk.free = 400 + len(DATA[10:]) - 1
        with pytest.raises(Overloaded) as caught:
            send(writer, 10, DATA[10:])
        assert caught.value.code == "DISK_FULL"
        assert writer.received_bytes == 10
        datasets.create("records-of-jobs-still-fit")
        disk.free = 400 + len(DATA[10:])
        send(writer, 10, DATA[10:])
        writer.finish()
    assert datasets.paths("acts")[0].read_bytes() == DATA


def test_a_full_disk_keeps_the_chunks_before(
    datasets: DatasetRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FileIO, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    with datasets.begin_upload(header()) as writer:
        send(writer, 0, DATA[:10])
        with monkeypatch.context() as patch:
            patch.setattr("saeserve.registry.upload.write_some", full)
            with pytest.raises(Unavailable) as caught:
                send(writer, 10, DATA[10:])
        assert caught.value.code == "DISK_FULL"
        send(writer, 10, DATA[10:])
        writer.finish()
    assert datasets.paths("acts")[0].read_bytes() == DATA


def test_a_data_set_that_takes_no_files(
    datasets: DatasetRegistry, manifest: DatasetManifest
) -> None:
    datasets.create("acts", "j-1")
    with pytest.raises(Conflict):
        datasets.begin_upload(header())
    datasets.create("ready")
    datasets.commit("ready", manifest.to_bytes())
    with pytest.raises(FailedPrecondition, match="READY"):
        datasets.begin_upload(header(dataset="ready"))


def test_deleting_during_an_upload_is_told(datasets: DatasetRegistry) -> None:
    with datasets.begin_upload(header()) as writer:
        send(writer, 0, DATA)
        datasets.delete("acts")
        with pytest.raises(NotFound, match="deleted"):
            writer.finish()


def test_an_upload_that_never_began(datasets: DatasetRegistry) -> None:
    datasets.create("acts")
    with pytest.raises(NotFound, match=r"a\.npy"):
        datasets.upload("acts", "a.npy")
