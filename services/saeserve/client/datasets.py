"""The data-set half of the SDK: upload, register, look, delete."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

import grpc

from saeserve.client.dataset_values import Dataset, dataset_value
from saeserve.client.errors import ClientError, NotFoundError, translated
from saeserve.client.payloads import DataInput, Payload, payloads
from saeserve.client.progress import Progress, shifted, silent
from saeserve.client.retries import Limit, Patience
from saeserve.v1 import dataset_service_pb2, dataset_service_pb2_grpc


class Datasets:
    """Calls of DatasetService."""

    def __init__(self, channel: grpc.Channel, address: str, timeout: float) -> None:
        self._stub = dataset_service_pb2_grpc.DatasetServiceStub(channel)
        self._address = address
        self._timeout = timeout

    def upload(
        self,
        dataset: str,
        data: DataInput,
        *,
        name: str = "",
        tensors: Sequence[str] = (),
        progress: Progress = silent,
        timeout: float | None = None,
    ) -> Dataset:
        """Upload activations; the data set is PENDING until an ingest job has verified it.

        `data` is the path of a .npy or .safetensors file or several such paths; or an array or
        torch tensor [rows, d], or several by the names of their sources, which are sent as the file
        `name` (left out: activations.safetensors). float16, bfloat16, float32 and float64 are
        taken. `tensors` are those of .safetensors files that the ingest will take (left out: all).
        `progress` is called with the name of the file, bytes sent, and bytes of all files.

        Type and shape are checked before anything is sent. A broken upload goes on where it
        stopped, also when called again. Raises DeadlineError after `timeout` seconds.

        >>> client.datasets.upload("my-acts", "activations.npy")
        >>> client.datasets.upload("pairs", {"mlp_in.3": x, "mlp_out.3": y})
        >>> client.jobs.submit({"ingest": {"dataset": "my-acts"}})
        """
        limit, sent = Limit(timeout), payloads(data, name, tensors)
        before, total = 0, sum(payload.size_bytes for payload in sent)
        for payload in sent:
            self._send(dataset, payload, limit, shifted(progress, payload.name, before, total))
            before += payload.size_bytes
        return self.get(dataset)

    def _send(
        self, dataset: str, payload: Payload, limit: Limit, tell: Callable[[int], None]
    ) -> None:
        """Send one file, asking what has arrived after every interruption."""
        patience, sent = Patience(), 0
        while True:
            arrived = sent
            try:
                arrived = self.received(dataset, payload.name)
                tell(arrived)
                requests = _requests(dataset, payload, arrived, tell)
                with translated(self._address):
                    self._stub.UploadDataset(requests, timeout=limit.stream())
            except ClientError as error:
                patience.failed(error, progressed=arrived > sent, most_s=limit.left())
                sent = arrived
            else:
                return

    def received(self, dataset: str, file_name: str) -> int:
        """Bytes of an upload that are safely stored; 0 when it has not begun.

        >>> client.datasets.received("my-acts", "activations.npy")
        """
        request = dataset_service_pb2.GetUploadRequest(dataset=dataset, file_name=file_name)
        try:
            with translated(self._address):
                return self._stub.GetUpload(request, timeout=self._timeout).received_bytes
        except NotFoundError:
            return 0

    def register(self, dataset: str, files: Sequence[str]) -> Dataset:
        """Make a PENDING data set of files under the server's roots, each as root:relative.

        >>> client.datasets.register("my-acts", ["files:activations.npy"])
        """
        request = dataset_service_pb2.RegisterDatasetRequest(dataset=dataset, files=files)
        with translated(self._address):
            return dataset_value(self._stub.RegisterDataset(request, timeout=self._timeout).dataset)

    def get(self, name: str) -> Dataset:
        """The data set as it is now.

        >>> client.datasets.get("my-acts").rows
        """
        request = dataset_service_pb2.GetDatasetRequest(name=name)
        with translated(self._address):
            return dataset_value(self._stub.GetDataset(request, timeout=self._timeout).dataset)

    def list(self) -> Iterator[Dataset]:
        """All data sets, by name.

        >>> [dataset.name for dataset in client.datasets.list()]
        """
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
        """Delete a data set; refused while a live job uses it, unless forced.

        >>> client.datasets.delete("my-acts")
        """
        request = dataset_service_pb2.DeleteDatasetRequest(name=name, force=force)
        with translated(self._address):
            self._stub.DeleteDataset(request, timeout=self._timeout)


def _requests(
    dataset: str, payload: Payload, offset: int, tell: Callable[[int], None]
) -> Iterator[dataset_service_pb2.UploadDatasetRequest]:
    """The header, then chunks from `offset` on."""
    header = dataset_service_pb2.UploadHeader(
        dataset=dataset,
        file_name=payload.name,
        size_bytes=payload.size_bytes,
        sha256=payload.sha256,
    )
    yield dataset_service_pb2.UploadDatasetRequest(header=header)
    for data in payload.read(offset):
        chunk = dataset_service_pb2.UploadChunk(offset=offset, data=data, crc32=zlib.crc32(data))
        yield dataset_service_pb2.UploadDatasetRequest(chunk=chunk)
        offset += len(data)
        tell(offset)
