"""saeserve.v1.TransferService."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator

from typing_extensions import override

from saeserve.control.converters.transfers import (
    chunk_message,
    listing_message,
    upload_message,
    uploaded_file_message,
)
from saeserve.control.handlers.transfers import TransferHandlers
from saeserve.control.servicers.context import Context
from saeserve.control.servicers.datasets import UPLOAD_BYTES
from saeserve.control.servicers.pools import Pools
from saeserve.control.servicers.stalls import each_in_time, in_time
from saeserve.errors import InvalidInput, Overloaded
from saeserve.platform.auth.caller import current_caller
from saeserve.platform.auth.rules import CHANGE, READ
from saeserve.platform.grpc_server import Service
from saeserve.registry.upload import UploadWriter
from saeserve.registry.upload_paths import Announced
from saeserve.v1 import transfer_service_pb2 as pb
from saeserve.v1 import transfer_service_pb2_grpc as pb_grpc

NAME = "saeserve.v1.TransferService"
RULES = {
    "ListFiles": READ,
    "DownloadFile": READ,
    "CreateUpload": CHANGE,
    "UploadFile": CHANGE,
    "DeleteUpload": CHANGE,
}


class TransferServicer(pb_grpc.TransferServiceServicer):
    """Moves files, a bounded number at a time; disks are read and written in threads."""

    def __init__(self, handlers: TransferHandlers, pools: Pools, limit: int) -> None:
        self._handlers = handlers
        self._pools = pools
        self._limit = limit
        self._running = 0

    @override
    async def ListFiles(
        self, request: pb.ListFilesRequest, context: Context
    ) -> pb.ListFilesResponse:
        """The files of a resource."""
        found = await asyncio.to_thread(
            self._handlers.downloads.files, request.resource, current_caller()
        )
        return listing_message(found)

    # grpc.aio takes a coroutine that writes as well as a generator, where a write cannot time out.
    @override
    async def DownloadFile(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: pb.DownloadFileRequest, context: Context
    ) -> None:
        """One file from an offset on, then its size and hash."""
        with self._slot():
            reader = await asyncio.to_thread(
                self._handlers.downloads.open,
                request.resource,
                request.name,
                request.offset,
                request.etag,
                current_caller(),
            )
            with contextlib.closing(reader):
                while (chunk := await asyncio.to_thread(reader.read)) is not None:
                    if chunk.data:
                        message = pb.DownloadFileResponse(chunk=chunk_message(chunk))
                        await in_time(context.write(message))
                end = pb.FileEnd(size_bytes=reader.size, sha256=reader.sha256)
            await in_time(context.write(pb.DownloadFileResponse(end=end)))

    @override
    async def CreateUpload(
        self, request: pb.CreateUploadRequest, context: Context
    ) -> pb.CreateUploadResponse:
        """Announce files, or find what has arrived of them."""
        files = [
            Announced(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256)
            for file in request.files
        ]
        made = await asyncio.to_thread(self._handlers.create, files, current_caller())
        return pb.CreateUploadResponse(upload=upload_message(made, self._handlers.expiry_seconds))

    @override
    async def UploadFile(
        self, request_iterator: AsyncIterator[pb.UploadFileRequest], context: Context
    ) -> pb.UploadFileResponse:
        """Take one file; what arrived stays when the stream breaks."""
        requests = each_in_time(request_iterator)
        with self._slot():
            header = await _header(requests)
            begin, caller = self._handlers.begin, current_caller()
            writer = await asyncio.to_thread(begin, header.upload, header.name, caller)
            await asyncio.to_thread(writer.__enter__)
            try:
                await _receive(requests, writer)
            finally:
                await asyncio.to_thread(writer.__exit__, None, None, None)
        upload = await asyncio.to_thread(self._handlers.uploads.get, header.upload)
        return pb.UploadFileResponse(file=uploaded_file_message(upload, header.name))

    @override
    async def DeleteUpload(
        self, request: pb.DeleteUploadRequest, context: Context
    ) -> pb.DeleteUploadResponse:
        """Remove an upload."""
        await self._pools.call(self._handlers.delete, request.upload, current_caller())
        return pb.DeleteUploadResponse()

    @contextlib.contextmanager
    def _slot(self) -> Generator[None]:
        """One of the transfers that may run at once. Raises Overloaded."""
        if self._running >= self._limit:
            raise Overloaded(
                f"{self._running} transfers are running, as many as this server allows",
                retry_after_s=1.0,
                code="TRANSFERS_FULL",
                remedy="try again in a moment, or raise SAESERVE_TRANSFERS",
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


def transfer_service(servicer: TransferServicer) -> Service:
    """The service, to be added to a server."""
    return Service(
        NAME,
        lambda server: pb_grpc.add_TransferServiceServicer_to_server(servicer, server),
        {"UploadFile": UPLOAD_BYTES},
        RULES,
    )


async def _header(requests: AsyncIterator[pb.UploadFileRequest]) -> pb.UploadFileHeader:
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidInput(
            "an upload begins with its header", field="header", remedy="send the header first"
        )
    return first.header


async def _receive(requests: AsyncIterator[pb.UploadFileRequest], writer: UploadWriter) -> None:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidInput(
                "only chunks follow the header", field="chunk", remedy="upload one file a call"
            )
        chunk = request.chunk
        await asyncio.to_thread(writer.add, chunk.offset, chunk.data, chunk.crc32)
    await asyncio.to_thread(writer.finish)
