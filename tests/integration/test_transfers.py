"""Files out of a real control server and into it, with whatever may break on the way."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.fakes import transferring
from tests.fakes.control_server import Control, refused
from tests.fakes.real_stack import free_port
from tests.fakes.transferring import SIZE, content, killed_download, killed_upload
from tests.fakes.valkey import Valkey

from saeserve.client import Client
from saeserve.client.errors import (
    AlreadyExistsError,
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionError,
)
from saeserve.control.handlers.downloads import Chunk, FileReader
from saeserve.errors import Unavailable
from saeserve.v1 import transfer_service_pb2 as pb
from saeserve.v1 import transfer_service_pb2_grpc as pb_grpc

RESOURCES = ["model", "export", "checkpoint", "logs"]


@pytest.fixture
def client(control: Control) -> Iterator[Client]:
    with transferring.client_of(control) as made:
        yield made


def made(control: Control, kind: str) -> tuple[str, Path]:
    """A resource of the kind, and the folder in the store that it is of."""
    if kind == "model":
        resource = transferring.publish(control)
        return "sae", control.store.path(resource)
    if kind == "export":
        resource = transferring.export(control)
        return resource, control.store.path(resource)
    lease = transferring.attempt(control)
    key = f"jobs/{lease.job}/attempts/{lease.epoch}"
    if kind == "checkpoint":
        return transferring.checkpoint(control, lease), control.store.path(f"{key}/checkpoints/50")
    return transferring.logs(control, lease), control.store.path(f"jobs/{lease.job}/attempts")


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by its name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


@pytest.mark.parametrize("kind", RESOURCES)
def test_a_killed_download_is_resumed(
    control: Control, client: Client, tmp_path: Path, kind: str
) -> None:
    resource, stored = made(control, kind)
    target = tmp_path / "here"
    assert control.server is not None
    killed_download(control.server.bound, resource, target)
    assert not target.exists()
    [part] = (tmp_path / "here.part").rglob("*.part")
    arrived = part.stat().st_size
    assert 0 < arrived < SIZE
    seen: list[int] = []
    done = client.transfers.download(resource, target, lambda _name, at, _total: seen.append(at))
    assert min(seen) > arrived, "it went on where it broke off"
    wanted = tree(stored)
    if kind == "logs":
        wanted = {name: each for name, each in wanted.items() if not name.endswith("claim.json")}
    assert tree(target) == wanted
    assert set(done.files) == set(wanted)
    assert not (tmp_path / "here.part").exists()


def test_a_killed_upload_is_resumed(control: Control, client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "cfg.json").write_text("{}")
    (folder / "empty.txt").touch()
    (folder / "deep" / "weights.bin").write_bytes(content())
    (folder / ".hidden").write_text("not a part of the model")
    assert control.server is not None
    killed_upload(control.server.bound, folder, control.store.path("uploads"))
    [part] = control.store.path("uploads").rglob("*.part")
    arrived = part.stat().st_size
    assert 0 < arrived < SIZE
    seen: list[int] = []
    upload = client.transfers.upload({"model": folder}, lambda _name, at, _total: seen.append(at))
    assert min(seen) > arrived
    found = tree(control.store.path(f"{upload}/files/model"))
    assert found == {name: each for name, each in tree(folder).items() if name != ".hidden"}
    assert client.transfers.upload({"model": folder}) == upload


@pytest.mark.parametrize(
    "resource",
    [
        "models/sae/versions/1/../..",
        "exports/../models/1/sae",
        "exports/sae/1/../../..",
        "exports/sae/1/saelens/cfg.json",
        "jobs/../checkpoints",
        "jobs/j-00000000000000000000/job.json",
        "jobs/j-00000000000000000000/attempts/1",
        "jobs/j-0/logs",
        "uploads/u-000000000000000000000000",
        "datasets/acts",
        "/etc/passwd",
        "exports/sae/1/saelens\n",
        "",
        "..",
    ],
)
def test_what_names_no_resource_is_refused(client: Client, resource: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.transfers.files(resource)
    assert caught.value.field == "resource"


@pytest.mark.parametrize(
    "name",
    ["../../1/config.json", "/etc/passwd", "", ".", "config.json/", "missing", "link", ".hidden"],
)
def test_only_listed_files_can_be_read(control: Control, client: Client, name: str) -> None:
    folder = control.store.path(transferring.export(control))
    (folder / "link").symlink_to("/etc/passwd")
    (folder / ".hidden").write_text("hidden")
    assert [file.name for file in client.transfers.files("exports/sae/1/saelens").files] == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    stub = pb_grpc.TransferServiceStub(control.channel)
    request = pb.DownloadFileRequest(resource="exports/sae/1/saelens", name=name)
    with pytest.raises(Exception, match="has no file"):
        list(stub.DownloadFile(request))


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        ("nothing", "MODEL_NOT_FOUND"),
        ("exports/sae/9/saelens", "EXPORT_NOT_FOUND"),
        ("jobs/j-00000000000000000000/logs", "JOB_NOT_FOUND"),
        ("jobs/j-00000000000000000000/checkpoints", "JOB_NOT_FOUND"),
    ],
)
def test_what_is_not_there(client: Client, resource: str, reason: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.transfers.files(resource)
    assert caught.value.reason == reason
    assert caught.value.remedy


def test_a_version_is_resolved_once(control: Control, client: Client, tmp_path: Path) -> None:
    transferring.publish(control)
    control.models.set_alias("sae", "prod", 1)
    listing = client.transfers.files("sae@prod")
    assert listing.resource == "models/sae/versions/1"
    weights = {file.name: file for file in listing.files}["model.safetensors"]
    stored = control.store.path("models/sae/versions/1/model.safetensors")
    assert weights.sha256 == hashlib.sha256(stored.read_bytes()).hexdigest()
    control.models.publish("sae", "j-other", 0, control.folder / "export")
    assert client.transfers.download("sae@prod", tmp_path / "here").resource == listing.resource


def test_a_file_that_changed_meanwhile_is_brought_anew(
    control: Control, client: Client, tmp_path: Path
) -> None:
    resource = transferring.export(control)
    assert control.server is not None
    killed_download(control.server.bound, resource, tmp_path / "here")
    transferring.export(control, seed=2)
    client.transfers.download(resource, tmp_path / "here")
    assert tree(tmp_path / "here") == tree(control.store.path(resource))


def test_the_etag_holds_a_download_to_one_file(control: Control, client: Client) -> None:
    resource = transferring.export(control)
    before = client.transfers.files(resource).files[1]
    transferring.export(control, seed=2)
    with pytest.raises(PreconditionError) as caught:
        list(client.transfers.read(resource, before))
    assert caught.value.reason == "FILE_CHANGED"


def test_bytes_damaged_on_the_way_are_brought_anew(
    control: Control, client: Client, tmp_path: Path
) -> None:
    resource, stored = made(control, "export")
    assert control.server is not None
    killed_download(control.server.bound, resource, tmp_path / "here")
    [part] = (tmp_path / "here.part").rglob("*.part")
    with part.open("r+b") as file:
        file.seek(1000)
        file.write(b"other")
    client.transfers.download(resource, tmp_path / "here")
    assert tree(tmp_path / "here") == tree(stored)


def test_a_file_damaged_in_the_store_is_refused(
    control: Control, client: Client, tmp_path: Path
) -> None:
    folder = control.store.path(transferring.publish(control))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"other")
    with pytest.raises(DataLossError) as caught:
        client.transfers.download("sae", tmp_path / "here")
    assert "model.safetensors" in caught.value.message
    assert not (tmp_path / "here").exists()
    assert not list((tmp_path / "here.part").glob("model.safetensors*"))


def test_a_broken_stream_goes_on(
    control: Control, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource, stored = made(control, "model")
    offsets: list[int] = []
    breaking(monkeypatch, offsets)
    client.transfers.download(resource, tmp_path / "here")
    assert tree(tmp_path / "here") == tree(stored)
    assert offsets == sorted(offsets)
    assert offsets[-1] > 2**20


def breaking(monkeypatch: pytest.MonkeyPatch, offsets: list[int]) -> None:
    """Let each call end after two chunks."""
    read: Callable[[FileReader], Chunk | None] = FileReader.read
    counts: dict[int, int] = {}

    def break_off(self: FileReader) -> Chunk | None:
        counts[id(self)] = counts.get(id(self), 0) + 1
        chunk = read(self)
        if chunk is not None and counts[id(self)] > 2:
            offsets.append(chunk.offset)
            raise Unavailable("the disk went away", remedy="try again")
        return chunk

    monkeypatch.setattr(FileReader, "read", break_off)
    monkeypatch.setattr("saeserve.client.retries.FIRST_WAIT_S", 0.01)


def test_what_is_in_the_way_stays(control: Control, client: Client, tmp_path: Path) -> None:
    resource, _ = made(control, "export")
    (tmp_path / "a").mkdir()
    (tmp_path / "b.part").mkdir()
    (tmp_path / "b.part" / "mine.txt").write_text("mine")
    for name in ("a", "b"):
        with pytest.raises(AlreadyExistsError):
            client.transfers.download(resource, tmp_path / name)
    assert (tmp_path / "b.part" / "mine.txt").read_text() == "mine"


def test_a_growing_log_is_read_as_far_as_it_was(
    control: Control, client: Client, tmp_path: Path
) -> None:
    lease = transferring.attempt(control)
    resource = transferring.logs(control, lease)
    assert control.server is not None
    killed_download(control.server.bound, resource, tmp_path / "here")
    log = control.store.path(f"jobs/{lease.job}/attempts/{lease.epoch}/log.txt")
    with log.open("ab") as file:
        file.write(b"one more line\n")
    client.transfers.download(resource, tmp_path / "here")
    assert (tmp_path / "here" / "1" / "log.txt").read_bytes() == log.read_bytes()


@pytest.fixture
def narrow(tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    """A server that runs one transfer at a time, and waits half a second for a caller."""
    monkeypatch.setattr("saeserve.control.servicers.stalls.STALLED_AFTER_S", 0.5)
    valkey.flush()
    service = Control(tmp_path, valkey, transfers=1)
    service.start()
    yield service
    service.stop()


def stalled(control: Control) -> Any:  # noqa: ANN401 - a stream of gRPC
    """A download of 48 MiB whose caller takes one chunk and then nothing."""
    folder = control.store.path(transferring.export(control))
    (folder / "large.bin").write_bytes(bytes(48 * 2**20))
    stub = pb_grpc.TransferServiceStub(control.channel)
    request = pb.DownloadFileRequest(resource="exports/sae/1/saelens", name="large.bin")
    stream = stub.DownloadFile(request)
    next(stream)
    return stream


def test_too_many_transfers_are_refused_and_wait(narrow: Control, tmp_path: Path) -> None:
    stream = stalled(narrow)
    stub = pb_grpc.TransferServiceStub(narrow.channel)
    request = pb.DownloadFileRequest(resource="exports/sae/1/saelens", name="cfg.json")
    code, reason, _ = refused(lambda: list(stub.DownloadFile(request)))
    assert (code.name, reason) == ("RESOURCE_EXHAUSTED", "TRANSFERS_FULL")
    with transferring.client_of(narrow) as client:
        client.transfers.download("exports/sae/1/saelens", tmp_path / "here")
    with pytest.raises(grpc.RpcError):
        list(stream)


def test_a_killed_client_gives_its_place_back(narrow: Control, tmp_path: Path) -> None:
    resource = transferring.export(narrow)
    assert narrow.server is not None
    killed_download(narrow.server.bound, resource, tmp_path / "here")
    with transferring.client_of(narrow) as client:
        client.transfers.download(resource, tmp_path / "here")
        client.transfers.upload({"model": tmp_path / "here"})


def test_a_silent_upload_gives_its_place_back(narrow: Control, tmp_path: Path) -> None:
    stub = pb_grpc.TransferServiceStub(narrow.channel)
    open_end = threading.Event()

    def nothing() -> Iterator[pb.UploadFileRequest]:
        open_end.wait(240)
        yield from ()

    call = stub.UploadFile.future(nothing())
    (tmp_path / "cfg.json").write_text("{}")
    with transferring.client_of(narrow) as client:
        client.transfers.upload({"cfg.json": tmp_path / "cfg.json"})
    assert call.exception(30) is not None
    open_end.set()


def test_a_transfer_outlives_a_restart_of_the_server(
    tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey.flush()
    address = f"127.0.0.1:{free_port()}"
    options: dict[str, Any] = {"control_address": address, "grace_seconds": 0.1}
    first = Control(tmp_path, valkey, **options)
    first.start()
    resource = transferring.export(first)
    stopping = threading.Thread(target=first.stop)

    def stop_half_way(_name: str, done: int, total: int) -> None:
        if done > total // 2 and not stopping.ident:
            stopping.start()
            stopping.join()
            later.start()

    later = Control(tmp_path, valkey, **options)
    with Client(address) as client:
        client.transfers.download(resource, tmp_path / "here", stop_half_way)
    assert stopping.ident, "it was stopped on the way"
    assert tree(tmp_path / "here") == tree(later.store.path(resource))
    later.stop()
