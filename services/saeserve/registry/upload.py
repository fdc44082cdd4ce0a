"""Resumable uploads of one file: ordered, checksummed chunks into a .part, then one rename."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import zlib
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from saeserve.core.durable import make_folders, sync
from saeserve.errors import Conflict, FailedPrecondition, InvalidInput, NotFound
from saeserve.platform.store import writing
from saeserve.registry.dataset import UploadHeader
from saeserve.registry.dataset_errors import deleted_meanwhile
from saeserve.registry.refusals import upload_incomplete

_SYNC_EVERY_BYTES = 16 << 20
_BLOCK = 1 << 20


class UploadWriter:
    """Takes the chunks of one file. Use as a context manager; leaving it keeps what arrived."""

    def __init__(
        self,
        header: UploadHeader,
        final: Path,
        check_room: Callable[[int], None],
        gone: NotFound | None = None,
    ) -> None:
        """`check_room` raises where so many more bytes may not be written; `gone` is raised when
        the folder is removed meanwhile, by default it is a data set's."""
        self._check_room = check_room
        self._gone = gone or deleted_meanwhile(header.dataset)
        self._header = header
        self._final = final
        self._part = part_of(final)
        self._complete = final.exists()
        self._file: FileIO | None = None
        self.received_bytes = header.size_bytes if self._complete else 0
        self._unsynced = 0
        # A call that was cancelled leaves its thread at work while the writer is closed.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if not self._complete:
            self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._file is not None:
                self._sync(self._file)
                self._file.close()
                self._file = None

    def add(self, offset: int, data: bytes, crc32: int) -> None:
        """Append one chunk. Raises FailedPrecondition for another offset than expected and
        InvalidInput for a chunk that is damaged or exceeds the size announced, and Overloaded
        when the disk has no more room for uploads; then it goes on once there is room."""
        with self._lock:
            self._check(offset, data, crc32)
            if self._file is None:
                return
            # Uploads that run side by side were each promised the same space.
            self._check_room(len(data))
            self._append(self._file, data)
            self.received_bytes += len(data)
            self._unsynced += len(data)
            if self._unsynced >= _SYNC_EVERY_BYTES:
                self._sync(self._file)

    def finish(self) -> None:
        """Verify the whole file and give it its name. Raises FailedPrecondition while bytes are
        missing, InvalidInput (and discards the bytes) when its sha256 is another."""
        if self._file is None:
            return
        if self.received_bytes < self._header.size_bytes:
            raise upload_incomplete(
                f"{self._header.file_name} has {self.received_bytes} of "
                f"{self._header.size_bytes} bytes",
                remedy=f"continue from offset {self.received_bytes}",
            )
        self._sync(self._file)
        self._verify(self._file)
        try:
            os.replace(self._part, self._final)
        except FileNotFoundError:
            raise self._gone from None
        sync(self._final.parent)

    def _open(self) -> None:
        file = _locked(self._part)
        if self._final.exists():
            file.close()
            self._part.unlink(missing_ok=True)
            self.received_bytes = self._header.size_bytes
            return
        self._file = file
        self.received_bytes = file.seek(0, os.SEEK_END)

    def _append(self, file: FileIO, data: bytes) -> None:
        rest = memoryview(data)
        with writing():
            try:
                while rest:
                    rest = rest[write_some(file, rest) :]
            except OSError:
                file.truncate(self.received_bytes)
                raise

    def _check(self, offset: int, data: bytes, crc32: int) -> None:
        where = f"{self._header.file_name} at offset {offset}"
        if offset != self.received_bytes:
            raise FailedPrecondition(
                f"{where}: {self.received_bytes} bytes have arrived",
                code="OFFSET_MISMATCH",
                field="chunk.offset",
                remedy=f"continue from offset {self.received_bytes}",
            )
        if zlib.crc32(data) != crc32:
            raise InvalidInput(
                f"{where}: the chunk's crc32 does not match its bytes",
                code="CRC_MISMATCH",
                field="chunk.crc32",
                remedy="send the chunk again",
            )
        if offset + len(data) > self._header.size_bytes:
            raise InvalidInput(
                f"{where}: {len(data)} bytes exceed the {self._header.size_bytes} announced",
                code="UPLOAD_TOO_LONG",
                field="chunk.data",
                remedy="correct header.size_bytes",
            )

    def _verify(self, file: FileIO) -> None:
        digest = hashlib.sha256()
        file.seek(0)
        while block := file.read(_BLOCK):
            digest.update(block)
        if digest.hexdigest() == self._header.sha256:
            return
        file.truncate(0)
        self.received_bytes = 0
        raise InvalidInput(
            f"{self._header.file_name}: its sha256 is {digest.hexdigest()}, not "
            f"{self._header.sha256} as announced",
            code="SHA256_MISMATCH",
            field="header.sha256",
            remedy="correct the hash, or upload the file again from offset 0",
        )

    def _sync(self, file: FileIO) -> None:
        file.flush()
        os.fsync(file.fileno())
        self._unsynced = 0


def write_some(file: FileIO, data: memoryview) -> int:
    """One unbuffered write, so that a full disk shows at once; the bytes that it took."""
    return file.write(data)


def part_of(final: Path) -> Path:
    """Where a file's bytes gather until it is complete."""
    return final.with_name(final.name + ".part")


def _locked(part: Path) -> FileIO:
    """Open for appending, for this writer alone."""
    with writing():
        make_folders(part.parent)
        file = FileIO(part, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Conflict(
            f"another upload is writing {part.name.removesuffix('.part')}",
            code="UPLOAD_BUSY",
            remedy="wait for it to end, then continue where GetUpload says",
        ) from None
    return file
