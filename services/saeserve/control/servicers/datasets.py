"""saeserve.v1.DatasetService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from typing_extensions import override

from saeserve.control.converters.datasets import dataset_message
from saeserve.control.converters.tokens import page_after, page_size, page_token
from saeserve.control.handlers.bounds import MAX_FILES, check_count
from saeserve.control.handlers.datasets import DatasetHandlers
from saeserve.control.servicers.context import Context
from saeserve.control.servicers.pools import Pools
from saeserve.errors import InvalidInput
from saeserve.platform.auth.caller import current_caller
from saeserve.platform.auth.rules import CHANGE, READ, SUBMIT
from saeserve.platform.grpc_server import Service
from saeserve.platform.pages import fitting
from saeserve.registry.dataset import UploadHeader
from saeserve.registry.upload import UploadWriter
from saeserve.v1 import dataset_service_pb2 as pb
from saeserve.v1 import dataset_service_pb2_grpc as pb_grpc

NAME = "saeserve.v1.DatasetService"
RULES = {
    "UploadDataset": CHANGE,
    "GetUpload": SUBMIT,
    "RegisterDataset": CHANGE,
    "GetDataset": READ,
    "ListDatasets": READ,
    "DeleteDataset": CHANGE,
}
UPLOAD_BYTES = 4 * 1024 * 1024
"""Maximum size of a chunk; the SDK sends 1 MiB at a time."""
_SCOPE = "datasets"


class DatasetServicer(pb_grpc.DatasetServiceServicer):
    """Converts, calls a handler in a thread, converts back."""

    def __init__(self, handlers: DatasetHandlers, pools: Pools) -> None:
        self._handlers = handlers
        self._pools = pools

    @override
    async def UploadDataset(
        self, request_iterator: AsyncIterator[pb.UploadDatasetRequest], context: Context
    ) -> pb.UploadDatasetResponse:
        """Take one file; what arrived stays when the stream breaks."""
        header = await _header(request_iterator)
        begin, caller = self._handlers.begin_upload, current_caller()
        writer = await self._pools.call(begin, header, caller)
        await asyncio.to_thread(writer.__enter__)
        try:
            await _receive(request_iterator, writer)
        finally:
            await asyncio.to_thread(writer.__exit__, None, None, None)
        found = await asyncio.to_thread(self._handlers.get, header.dataset)
        return pb.UploadDatasetResponse(dataset=dataset_message(found))

    @override
    async def GetUpload(
        self, request: pb.GetUploadRequest, context: Context
    ) -> pb.GetUploadResponse:
        """Where an upload goes on."""
        upload, caller = self._handlers.upload, current_caller()
        found = await asyncio.to_thread(upload, request.dataset, request.file_name, caller)
        return pb.GetUploadResponse(received_bytes=found.received_bytes, complete=found.complete)

    @override
    async def RegisterDataset(
        self, request: pb.RegisterDatasetRequest, context: Context
    ) -> pb.RegisterDatasetResponse:
        """Make a data set of files that lie under a root."""
        check_count(request.files, "files", MAX_FILES)
        register, caller = self._handlers.register, current_caller()
        found = await asyncio.to_thread(register, request.dataset, list(request.files), caller)
        return pb.RegisterDatasetResponse(dataset=dataset_message(found))

    @override
    async def GetDataset(
        self, request: pb.GetDatasetRequest, context: Context
    ) -> pb.GetDatasetResponse:
        """One data set."""
        found = await asyncio.to_thread(self._handlers.get, request.name)
        return pb.GetDatasetResponse(dataset=dataset_message(found))

    @override
    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: Context
    ) -> pb.ListDatasetsResponse:
        """Data sets by name."""
        size, after = page_size(request.page_size), page_after(request.page_token, _SCOPE)
        found, last = await asyncio.to_thread(self._handlers.page, size, after)
        datasets = fitting(dataset_message(each) for each in found)
        last = last if len(datasets) == len(found) else datasets[-1].name
        return pb.ListDatasetsResponse(datasets=datasets, next_page_token=page_token(_SCOPE, last))

    @override
    async def DeleteDataset(
        self, request: pb.DeleteDatasetRequest, context: Context
    ) -> pb.DeleteDatasetResponse:
        """Delete a data set."""
        delete, caller = self._handlers.delete, current_caller()
        await self._pools.call(delete, request.name, caller, force=request.force)
        return pb.DeleteDatasetResponse()


def dataset_service(servicer: DatasetServicer) -> Service:
    """The service, to be added to a server."""
    return Service(
        NAME,
        lambda server: pb_grpc.add_DatasetServiceServicer_to_server(servicer, server),
        {"UploadDataset": UPLOAD_BYTES},
        RULES,
    )


async def _header(requests: AsyncIterator[pb.UploadDatasetRequest]) -> UploadHeader:
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidInput(
            "an upload begins with its header", field="header", remedy="send the header first"
        )
    header = first.header
    return UploadHeader(
        dataset=header.dataset,
        file_name=header.file_name,
        size_bytes=header.size_bytes,
        sha256=header.sha256,
    )


async def _receive(requests: AsyncIterator[pb.UploadDatasetRequest], writer: UploadWriter) -> None:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidInput(
                "only chunks follow the header", field="chunk", remedy="upload one file a call"
            )
        chunk = request.chunk
        await asyncio.to_thread(writer.add, chunk.offset, chunk.data, chunk.crc32)
    await asyncio.to_thread(writer.finish)
