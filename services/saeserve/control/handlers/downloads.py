"""Reading one file of a resource in chunks, from an offset on, with the sha256 of the whole."""

from __future__ import annotations

import hashlib
import os
import zlib
from dataclasses import dataclass
from io import FileIO

from saeserve.control.handlers.resources import Listing, Resources, StoredFile
from saeserve.errors import FailedPrecondition, InvalidInput
from saeserve.platform.auth.caller import EVERYONE, Caller
from saeserve.registry.refusals import no_file

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Chunk:
    """Bytes of a file and where they begin."""

    offset: int
    data: bytes

    @property
    def crc32(self) -> int:
        """zlib's CRC-32 of the data."""
        return zlib.crc32(self.data)


class FileReader:
    """Reads a file as long as it was when opened. `sha256` is known once all was read."""

    def __init__(self, file: FileIO, stored: StoredFile, offset: int) -> None:
        self._file = file
        self._name = stored.name
        self._known = stored.sha256
        self._digest = hashlib.sha256()
        self._position = offset if self._known else 0
        self._start = offset
        self.size = stored.size

    def read(self) -> Chunk | None:
        """The next bytes; without data while those before the offset are only hashed, None at the
        end. Raises FailedPrecondition when the file has become shorter."""
        if self._position == self.size:
            return None
        limit = self.size if self._position >= self._start else self._start
        wanted = min(CHUNK_BYTES, limit - self._position)
        data = os.pread(self._file.fileno(), wanted, self._position)
        if not data:
            raise _changed(self._name)
        if not self._known:
            self._digest.update(data)
        chunk = Chunk(self._position, data if self._position >= self._start else b"")
        self._position += len(data)
        return chunk

    @property
    def sha256(self) -> str:
        """Lower-case hex: what the store has on record, or else that of the bytes read."""
        return self._known or self._digest.hexdigest()

    def close(self) -> None:
        """Give the descriptor back; reading is over."""
        self._file.close()


class Downloads:
    """Opens files of resources for reading."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def files(self, resource: str, caller: Caller = EVERYONE) -> Listing:
        """The files of a resource. Raises InvalidInput, NotFound."""
        return self._resources.listing(resource, caller)

    def open(
        self, resource: str, name: str, offset: int, etag: str, caller: Caller = EVERYONE
    ) -> FileReader:
        """Begin to read a file.

        Raises InvalidInput, NotFound, and FailedPrecondition when its etag is another than `etag`.
        """
        stored = self._resources.listing(resource, caller).file(name)
        if etag and etag != stored.etag:
            raise _changed(name)
        if not 0 <= offset <= stored.size:
            raise InvalidInput(
                f"{name} has {stored.size} bytes, so none at {offset}",
                code="BAD_OFFSET",
                field="offset",
                remedy="begin again from offset 0",
            )
        return FileReader(_opened(stored), stored, offset)


def _opened(stored: StoredFile) -> FileIO:
    try:
        handle = os.open(stored.path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise no_file(
            f"{stored.name} is no longer there", field="name", remedy="list the files again"
        ) from error
    return FileIO(handle)


def _changed(name: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{name} has changed since it was listed",
        code="FILE_CHANGED",
        field="etag",
        remedy="list the files again and download this one from the start",
    )
