"""The data-set half of the SDK: upload, register, look, delete."""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc

from saeserve.client.dataset_values import Dataset, dataset_value
from saeserve.client.errors import NotFoundError, UnavailableError, translated
from saeserve.v1 import dataset_service_pb2, dataset_service_pb2_grpc

CHUNK_BYTES = 2**20
UPLOAD_ATTEMPTS = 5


class Datasets:
    """Calls of DatasetService."""

    def __init__(self, channel: grpc.Channel, address: str, timeout: float) -> None:
        self._stub = dataset_service_pb2_grpc.DatasetServiceStub(channel)
        self._address = address
        self._timeout = timeout

    def upload(self, dataset: str, file: Path) -> Dataset:
        """Upload one .npy or .safetensors file; a broken upload goes on where it stopped.

        The data set is PENDING until an ingest job has verified it.
        """
        digest = _sha256(file)
        for attempt in range(UPLOAD_ATTEMPTS):
            try:
                with translated(self._address):
                    requests = _requests(dataset, file, digest, self.received(dataset, file.name))
                    return dataset_value(self._stub.UploadDataset(requests).dataset)
            except UnavailableError:
                if attempt + 1 == UPLOAD_ATTEMPTS:
                    raise
                time.sleep(2.0**attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def received(self, dataset: str, file_name: str) -> int:
        """Bytes of an upload that are safely stored; 0 when it has not begun."""
        request = dataset_service_pb2.GetUploadRequest(dataset=dataset, file_name=file_name)
        try:
            with translated(self._address):
                return self._stub.GetUpload(request, timeout=self._timeout).received_bytes
        except NotFoundError:
            return 0

    def register(self, dataset: str, files: Sequence[str]) -> Dataset:
        """Make a PENDING data set of files under the server's roots, each as root:relative."""
        request = dataset_service_pb2.RegisterDatasetRequest(dataset=dataset, files=files)
        with translated(self._address):
            return dataset_value(self._stub.RegisterDataset(request, timeout=self._timeout).dataset)

    def get(self, name: str) -> Dataset:
        """The data set as it is now."""
        request = dataset_service_pb2.GetDatasetRequest(name=name)
        with translated(self._address):
            return dataset_value(self._stub.GetDataset(request, timeout=self._timeout).dataset)

    def list(self) -> Iterator[Dataset]:
        """All data sets, by name."""
        token = ""
        while True:
            request = dataset_service_pb2.ListDatasetsRequest(page_token=token)
            with translated(self._address):
                page = self._stub.ListDatasets(request, timeout=self._timeout)
            yield from (dataset_value(dataset) for dataset in page.datasets)
            token = page.next_page_token
            if not token:
                return

    def delete(self, name: str, *, force: bool = False) -> None:
        """Delete a data set; refused while a live job uses it, unless forced."""
        request = dataset_service_pb2.DeleteDatasetRequest(name=name, force=force)
        with translated(self._address):
            self._stub.DeleteDataset(request, timeout=self._timeout)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _requests(
    dataset: str, file: Path, digest: str, offset: int
) -> Iterator[dataset_service_pb2.UploadDatasetRequest]:
    """The header, then chunks from `offset` on."""
    header = dataset_service_pb2.UploadHeader(
        dataset=dataset, file_name=file.name, size_bytes=file.stat().st_size, sha256=digest
    )
    yield dataset_service_pb2.UploadDatasetRequest(header=header)
    with file.open("rb") as stream:
        stream.seek(offset)
        while data := stream.read(CHUNK_BYTES):
            chunk = dataset_service_pb2.UploadChunk(
                offset=offset, data=data, crc32=zlib.crc32(data)
            )
            yield dataset_service_pb2.UploadDatasetRequest(chunk=chunk)
            offset += len(data)
