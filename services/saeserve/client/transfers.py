"""Files out of a deployment, and into it: resumed where they broke off, verified at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from saeserve.client.downloading import Downloader
from saeserve.client.errors import translated
from saeserve.client.local_files import Listing, LocalFolder, RemoteFile, local_errors
from saeserve.client.progress import Progress, shifted, silent
from saeserve.client.retries import Limit
from saeserve.client.upload_checks import check_references
from saeserve.client.uploading import Uploader
from saeserve.v1 import transfer_service_pb2, transfer_service_pb2_grpc


@dataclass(frozen=True)
class Downloaded:
    """A finished download: what it is, and where."""

    resource: str
    folder: Path
    files: tuple[str, ...]


class Transfers:
    """Calls of TransferService.

    A resource is a model reference, ``exports/<name>/<n>/<format>``, ``jobs/<id>/logs``,
    ``jobs/<id>/metrics`` (curves), ``jobs/<id>/checkpoints`` (the newest) or
    ``jobs/<id>/checkpoints/<step>``.
    """

    def __init__(self, channel: grpc.Channel, address: str, timeout: float) -> None:
        self._stub = transfer_service_pb2_grpc.TransferServiceStub(channel)
        self._address = address
        self._timeout = timeout

    def files(self, resource: str) -> Listing:
        """What a resource means now, and its files.

        >>> [file.name for file in client.transfers.files("my-sae@prod").files]
        """
        request = transfer_service_pb2.ListFilesRequest(resource=resource)
        with translated(self._address):
            answer = self._stub.ListFiles(request, timeout=self._timeout)
        files = (
            RemoteFile(file.name, file.size_bytes, file.etag, file.sha256) for file in answer.files
        )
        return Listing(answer.resource, tuple(files))

    def download(
        self,
        resource: str,
        folder: Path | str,
        progress: Progress = silent,
        *,
        timeout: float | None = None,
    ) -> Downloaded:
        """Download the files of a resource into `folder`, which must not exist.

        They gather in ``<folder>.part``, which gets its name when every file has the server's
        sha256. Call again after an interruption of any kind to go on. Raises AlreadyExistsError,
        DataLossError for files that are damaged on the server, DeadlineError after `timeout`
        seconds, and as every call does.

        >>> client.transfers.download("my-sae@prod", "here", timeout=600)
        """
        limit, listing = Limit(timeout), self.files(resource)
        fetcher = Downloader(self._stub, self._address, listing.resource, limit)
        with local_errors("the download cannot be written"):
            local = LocalFolder(Path(folder), listing)
            local.check_room()
            missing = local.missing()
            total = sum(file.size_bytes for file in listing.files)
            done = total - sum(file.size_bytes for file in missing)
            for file in missing:
                fetcher.fetch(file, local.path(file), shifted(progress, file.name, done, total))
                done += file.size_bytes
            local.finish()
        return Downloaded(
            listing.resource, local.target, tuple(file.name for file in listing.files)
        )

    def read(
        self, resource: str, file: RemoteFile, *, timeout: float | None = None
    ) -> Iterator[bytes]:
        """The bytes of one listed file as they come; raises DataLossError after damaged ones.

        >>> listing = client.transfers.files(f"jobs/{job.id}/logs")
        >>> log = b"".join(client.transfers.read(listing.resource, listing.files[0]))
        """
        return Downloader(self._stub, self._address, resource, Limit(timeout)).read(file)

    def upload(
        self,
        items: Mapping[str, Path | str],
        progress: Progress = silent,
        *,
        timeout: float | None = None,
    ) -> str:
        """Upload files and folders, each under the name given, for an import_model job.

        Returns the upload's resource; the paths in the job's spec are ``<resource>/<name>``. What
        is named ``reference/…`` must be .npy matrices with one number of rows, which is checked
        first. Call again after an interruption to go on. Uploads that no job imports expire.

        >>> upload = client.transfers.upload({"model": "folder", "reference/x.npy": "x.npy"})
        >>> spec = {"model": "theirs", "path": f"{upload}/model", "format": "saelens"}
        >>> client.jobs.submit({"import_model": spec})
        """
        paths, limit = {name: Path(path) for name, path in items.items()}, Limit(timeout)
        check_references(paths)
        with local_errors("the upload cannot be read"):
            uploader = Uploader(self._stub, self._address, self._timeout, paths, limit)
            return uploader.upload(progress)
