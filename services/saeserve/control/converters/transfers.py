"""Listings, chunks and uploads onto the wire."""

from __future__ import annotations

from saeserve.control.converters.times import timestamp
from saeserve.control.handlers.downloads import Chunk
from saeserve.control.handlers.resources import Listing
from saeserve.registry.model_uploads import Upload
from saeserve.v1 import transfer_service_pb2 as pb


def listing_message(listing: Listing) -> pb.ListFilesResponse:
    """What a resource means, and its files."""
    return pb.ListFilesResponse(
        resource=listing.resource,
        files=[
            pb.StoredFile(name=file.name, size_bytes=file.size, etag=file.etag, sha256=file.sha256)
            for file in listing.files.values()
        ],
    )


def chunk_message(chunk: Chunk) -> pb.FileChunk:
    """Bytes of a file."""
    return pb.FileChunk(offset=chunk.offset, data=chunk.data, crc32=chunk.crc32)


def upload_message(upload: Upload, expiry_seconds: float) -> pb.Upload:
    """An upload, and when it expires unless it is used."""
    return pb.Upload(
        resource=upload.resource,
        files=[uploaded_file_message(upload, file.name) for file in upload.files],
        expire_time=timestamp(upload.used + expiry_seconds),
    )


def uploaded_file_message(upload: Upload, name: str) -> pb.UploadedFile:
    """One file of an upload, and how much of it has arrived."""
    file = upload.file(name)
    return pb.UploadedFile(
        name=file.name,
        size_bytes=file.size_bytes,
        received_bytes=upload.received[file.name],
        sha256=file.sha256,
        complete=file.name in upload.stored,
    )
