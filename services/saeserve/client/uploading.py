"""Files and folders from this machine to the server, going on where an earlier call stopped."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from saeserve.client.errors import ClientError, translated
from saeserve.client.local_files import blocks, file_sha256
from saeserve.client.progress import Progress, shifted
from saeserve.client.refusals import no_local_file
from saeserve.client.retries import Limit, Patience
from saeserve.v1 import transfer_service_pb2 as pb
from saeserve.v1 import transfer_service_pb2_grpc


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine, and the name that it gets in the upload."""

    name: str
    path: Path
    size_bytes: int
    sha256: str


class Uploader:
    """Uploads one set of files: items by their name in the upload, each a file or a folder."""

    def __init__(
        self,
        stub: transfer_service_pb2_grpc.TransferServiceStub,
        address: str,
        timeout: float,
        items: Mapping[str, Path],
        limit: Limit,
    ) -> None:
        """Hashes every file. Raises InvalidArgumentError when there is none."""
        self._limit = limit
        self._stub = stub
        self._address = address
        self._timeout = timeout
        self._files = {file.name: file for file in local_files(items)}

    def upload(self, progress: Progress) -> str:
        """Send what has not arrived; the upload's resource."""
        upload = self._announce()
        total = sum(file.size_bytes for file in upload.files)
        done = sum(file.size_bytes for file in upload.files if file.complete)
        for waiting in upload.files:
            if not waiting.complete:
                file = self._files[waiting.name]
                tell = shifted(progress, file.name, done, total)
                self._send(upload.resource, file, waiting.received_bytes, tell)
                done += file.size_bytes
        return upload.resource

    def _announce(self) -> pb.Upload:
        announced = (
            pb.AnnouncedFile(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256)
            for file in self._files.values()
        )
        request = pb.CreateUploadRequest(files=announced)
        with translated(self._address):
            return self._stub.CreateUpload(request, timeout=self._timeout).upload

    def _send(
        self, upload: str, file: LocalFile, received: int, tell: Callable[[int], None]
    ) -> None:
        """Send one file, asking what has arrived after every interruption."""
        patience, offset, broken, progressed = Patience(), received, False, False
        while True:
            try:
                if broken:
                    arrived = self._received(file.name)
                    offset, progressed = arrived, arrived > offset
                with translated(self._address):
                    requests = _requests(upload, file, offset, tell)
                    self._stub.UploadFile(requests, timeout=self._limit.stream())
            except ClientError as error:
                patience.failed(error, progressed=progressed, most_s=self._limit.left())
                broken, progressed = True, False
            else:
                return

    def _received(self, name: str) -> int:
        return next(file.received_bytes for file in self._announce().files if file.name == name)


def local_files(items: Mapping[str, Path]) -> Iterator[LocalFile]:
    """Every file, hashed; links are followed, hidden files and unfinished downloads passed over.

    Raises InvalidArgumentError for what is neither file nor folder, or holds no file.
    """
    for name, path in items.items():
        found = list(_below(name, path))
        if not found:
            raise no_local_file(
                f"{path} has no file to upload" if path.exists() else f"there is no {path}",
                field="path",
                remedy="name the folder of a model, or its file",
            )
        for each, file in found:
            yield LocalFile(each, file, file.stat().st_size, file_sha256(file))


def _below(name: str, path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield name, path
    for parent, folders, files in os.walk(path, followlinks=False):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for each in sorted(files):
            file = Path(parent) / each
            if not each.startswith(".") and not each.endswith(".part") and file.is_file():
                yield f"{name}/{file.relative_to(path).as_posix()}", file


def _requests(
    upload: str, file: LocalFile, offset: int, tell: Callable[[int], None]
) -> Iterator[pb.UploadFileRequest]:
    """The header, then chunks from `offset` on."""
    yield pb.UploadFileRequest(header=pb.UploadFileHeader(upload=upload, name=file.name))
    with file.path.open("rb") as stream:
        stream.seek(offset)
        for data in blocks(stream):
            chunk = pb.FileChunk(offset=offset, data=data, crc32=zlib.crc32(data))
            yield pb.UploadFileRequest(chunk=chunk)
            offset += len(data)
            tell(offset)
