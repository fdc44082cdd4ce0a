"""Uploads of foreign models: announced, filled, used by imports, and removed."""

from __future__ import annotations

import hashlib
import os
import zlib

import pytest
from tests.fakes.control import Bench

from saeserve.control.handlers.quota import UploadQuota
from saeserve.control.handlers.transfers import TransferHandlers
from saeserve.control.handlers.usage import LiveUse
from saeserve.errors import FailedPrecondition, InvalidInput, NotFound, Overloaded
from saeserve.jobs.record import JobRecord
from saeserve.jobs.states import JobState
from saeserve.registry.owners import Owners
from saeserve.registry.upload_paths import Announced

DATA = b"weights"
HOUR = 3600.0


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def announced(name: str = "model/cfg.json", data: bytes = DATA) -> Announced:
    digest = hashlib.sha256(data).hexdigest()
    return Announced(name=name, size_bytes=len(data), sha256=digest)


def upload(bench: Bench, *names: str, complete: bool = True) -> str:
    uploads = bench.parts.transfers.uploads
    names = names or ("model/cfg.json",)
    made = uploads.create([announced(name) for name in names])
    for name in names if complete else ():
        with uploads.begin(made.resource, name) as writer:
            writer.add(0, DATA, zlib.crc32(DATA))
            writer.finish()
    return made.resource


def submit(bench: Bench, path: str, **more: object) -> JobRecord:
    spec = {"model": "sae", "format": "saelens", "path": path, **more}
    return bench.submit({"import_model": spec})


def ended(bench: Bench, record: JobRecord, state: JobState) -> JobRecord:
    bench.start(record.id)
    bench.end(record.id, state)
    found = bench.parts.jobs.catalog.get(record.id)
    bench.parts.ended(found)
    return found


def there(bench: Bench, resource: str) -> bool:
    return bench.store.exists(resource)


def test_the_same_files_are_the_same_upload(bench: Bench) -> None:
    uploads = bench.parts.transfers.uploads
    files = [announced("model/a"), announced("model/b")]
    first = uploads.create(files)
    with uploads.begin(first.resource, "model/a") as writer:
        writer.add(0, DATA[:3], zlib.crc32(DATA[:3]))
    again = uploads.create(list(reversed(files)))
    assert again.resource == first.resource
    assert again.received == {"model/a": 3, "model/b": 0}
    assert not again.complete
    assert uploads.create([announced("model/a", b"other")]).resource != first.resource


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/x", "a/../x", "", "a//b", ".hidden", "a/.b", "x.part", "a\\b", "a\nb", "a\0b"),
        *("x" * 201, "/".join("abcdefghi")),
    ],
)
def test_names_that_cannot_be(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        bench.parts.transfers.uploads.create([announced("good"), announced(name)])
    assert caught.value.field == "files[1].name"


@pytest.mark.parametrize(
    ("size", "digest"), [(-1, "0" * 64), (7, "0"), (7, "A" * 64), (0, "0" * 64), (7, "")]
)
def test_sizes_and_hashes_that_cannot_be(bench: Bench, size: int, digest: str) -> None:
    with pytest.raises(InvalidInput):
        bench.parts.transfers.uploads.create([Announced(name="x", size_bytes=size, sha256=digest)])


def test_sets_of_files_that_cannot_be(bench: Bench) -> None:
    create = bench.parts.transfers.uploads.create
    many = [announced(f"f{number}") for number in range(1001)]
    for files in ([], many, [announced("a"), announced("a")], [announced("a"), announced("a/b")]):
        with pytest.raises(InvalidInput):
            create(files)


def test_room_is_looked_for_before_the_first_byte(bench: Bench) -> None:
    huge = Announced(name="x", size_bytes=2**60, sha256="0" * 64)
    with pytest.raises(Overloaded) as caught:
        bench.parts.transfers.uploads.create([huge])
    assert caught.value.code == "DISK_FULL"
    assert bench.store.names("uploads") == []


def test_an_import_takes_a_complete_upload(bench: Bench) -> None:
    resource = upload(bench, "model/cfg.json", "rows.npy", "features.npy")
    reference = {"activations": f"{resource}/rows.npy", "features": f"{resource}/features.npy"}
    record, plan = bench.plan(
        {
            "import_model": {
                "model": "sae",
                "format": "saelens",
                "path": f"{resource}/model",
                "reference": reference,
            }
        }
    )
    assert record.state is JobState.QUEUED
    assert plan.disk_bytes == len(DATA)


@pytest.mark.parametrize("below", ["/other", "/model/cfg", "/../upload.json", "/model/../.."])
def test_an_import_reads_nothing_else(bench: Bench, below: str) -> None:
    resource = upload(bench)
    with pytest.raises((InvalidInput, NotFound)) as caught:
        submit(bench, resource + below)
    assert caught.value.field == "spec.import_model.path"


def test_an_import_refuses_what_has_not_arrived(bench: Bench) -> None:
    resource = upload(bench, complete=False)
    with pytest.raises(FailedPrecondition) as caught:
        submit(bench, f"{resource}/model")
    assert caught.value.code == "UPLOAD_INCOMPLETE"
    with pytest.raises(NotFound):
        submit(bench, "uploads/u-000000000000000000000000/model")


def test_a_committed_import_removes_its_upload(bench: Bench) -> None:
    resource = upload(bench)
    ended(bench, submit(bench, f"{resource}/model"), JobState.SUCCEEDED)
    assert not there(bench, resource)


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_an_import_that_failed_leaves_it_for_the_next_try(bench: Bench, state: JobState) -> None:
    resource = upload(bench)
    ended(bench, submit(bench, f"{resource}/model"), state)
    assert there(bench, resource)
    ended(bench, submit(bench, f"{resource}/model"), JobState.SUCCEEDED)
    assert not there(bench, resource)


def test_an_upload_stays_while_another_job_wants_it(bench: Bench) -> None:
    resource = upload(bench)
    first = submit(bench, f"{resource}/model")
    second = submit(bench, f"{resource}/model", model="other")
    ended(bench, first, JobState.SUCCEEDED)
    assert there(bench, resource)
    with pytest.raises(FailedPrecondition) as caught:
        bench.parts.transfers.delete(resource)
    assert second.id in caught.value.message
    ended(bench, second, JobState.SUCCEEDED)
    assert not there(bench, resource)


def test_an_upload_stays_for_whoever_has_just_announced_it(bench: Bench) -> None:
    resource = upload(bench)
    record = submit(bench, f"{resource}/model")
    later = record.submission.created + 1
    os.utime(bench.store.path(f"{resource}/upload.json"), (later, later))
    ended(bench, record, JobState.SUCCEEDED)
    assert there(bench, resource)


def test_unused_uploads_expire(bench: Bench) -> None:
    clock = Clock()
    transfers = bench.parts.transfers
    use = LiveUse(bench.parts.jobs.catalog, bench.models)
    quota = UploadQuota(bench.datasets, transfers.uploads, Owners(bench.store))
    sweeper = TransferHandlers(transfers.downloads, transfers.uploads, use, quota, 24 * HOUR, clock)
    forgotten, used = upload(bench), upload(bench, "model/a", "model/b")
    submit(bench, f"{used}/model")
    remnant = "uploads/u-000000000000000000000000"
    bench.store.path(remnant).mkdir()
    sweeper.sweep()
    clock.now = transfers.uploads.last_used(forgotten) + 23 * HOUR
    sweeper.sweep()
    assert all(there(bench, each) for each in (forgotten, used, remnant))
    clock.now += 2 * HOUR
    sweeper.sweep()
    assert there(bench, used)
    assert not there(bench, forgotten)
    assert not there(bench, remnant)


def test_an_upload_can_be_given_up(bench: Bench) -> None:
    resource = upload(bench)
    bench.parts.transfers.delete(resource)
    assert not there(bench, resource)
    for name in ("uploads/..", "uploads/u-1/../../jobs", "jobs"):
        with pytest.raises(InvalidInput):
            bench.parts.transfers.delete(name)
