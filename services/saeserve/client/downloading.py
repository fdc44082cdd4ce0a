"""One file from the server to this machine, going on after interruptions, verified at the end."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from saeserve.client.errors import ClientError, DataLossError, UnavailableError, translated
from saeserve.client.local_files import RemoteFile, blocks, part_of, publish_file, size_of
from saeserve.client.refusals import damaged
from saeserve.client.retries import Limit, Patience
from saeserve.v1 import transfer_service_pb2, transfer_service_pb2_grpc


class Downloader:
    """Fetches the files of one resource, as ListFiles resolved it."""

    def __init__(
        self,
        stub: transfer_service_pb2_grpc.TransferServiceStub,
        address: str,
        resource: str,
        limit: Limit,
    ) -> None:
        self._limit = limit
        self._stub = stub
        self._address = address
        self._resource = resource

    def fetch(self, file: RemoteFile, final: Path, tell: Callable[[int], None]) -> None:
        """Bring a file to `final` through `<final>.part`; `tell` hears how many bytes are there.

        Raises DataLossError when the server's own bytes are damaged, and as every call does.
        """
        part, patience = part_of(final), Patience()
        part.parent.mkdir(parents=True, exist_ok=True)
        whole = False
        while not whole:
            begun = size_of(part)
            try:
                whole = self._append(file, part, tell)
            except ClientError as error:
                progressed = size_of(part) > begun
                patience.failed(error, progressed=progressed, most_s=self._limit.left())
        publish_file(part, final)

    def read(self, file: RemoteFile) -> Iterator[bytes]:
        """The bytes of a file as they come. Raises DataLossError after damaged ones."""
        digest = hashlib.sha256()
        for piece in self._pieces(file, 0):
            if isinstance(piece, bytes):
                digest.update(piece)
                yield piece
            elif piece.sha256 != digest.hexdigest():
                raise _damaged(file.name)

    def _append(self, file: RemoteFile, part: Path, tell: Callable[[int], None]) -> bool:
        """Append what is missing; False when what had arrived before is damaged, and removed."""
        if size_of(part) > file.size_bytes:
            part.unlink()
        digest, offset = hashlib.sha256(), size_of(part)
        with part.open("a+b") as output:
            output.seek(0)
            for block in blocks(output):
                digest.update(block)
            for piece in self._pieces(file, offset):
                if isinstance(piece, bytes):
                    output.write(piece)
                    digest.update(piece)
                    tell(output.tell())
                elif piece.sha256 == digest.hexdigest():
                    return True
        part.unlink()
        if not offset:
            raise _damaged(file.name)
        return False

    def _pieces(
        self, file: RemoteFile, offset: int
    ) -> Iterator[bytes | transfer_service_pb2.FileEnd]:
        """Checked bytes from `offset` on, and the end. Raises UnavailableError when cut off."""
        request = transfer_service_pb2.DownloadFileRequest(
            resource=self._resource, name=file.name, offset=offset, etag=file.etag
        )
        with translated(self._address):
            for response in self._stub.DownloadFile(request, timeout=self._limit.stream()):
                if response.WhichOneof("part") == "end":
                    yield response.end
                    return
                chunk = response.chunk
                if chunk.offset != offset or zlib.crc32(chunk.data) != chunk.crc32:
                    raise _broken_off(file.name, offset)
                offset += len(chunk.data)
                yield chunk.data
        raise _broken_off(file.name, offset)


def _broken_off(name: str, offset: int) -> UnavailableError:
    return UnavailableError(
        f"the download of {name} broke off at {offset} bytes",
        reason="DOWNLOAD_BROKEN",
        remedy="repeat the command: it goes on from there",
    )


def _damaged(name: str) -> DataLossError:
    return damaged(
        f"{name}: the server's bytes do not have the sha256 that they should have",
        field="name",
        remedy="the file is damaged in the store: restore it from a backup, or make it again",
    )
