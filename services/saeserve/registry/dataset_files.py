"""The files of a PENDING data set: uploads in its incoming folder, and registered ones."""

from __future__ import annotations

import re
from pathlib import Path

from saeserve.errors import Conflict, InvalidInput, NotFound
from saeserve.platform.store import ArtifactStore
from saeserve.registry.dataset import DatasetFile, Registered, UploadHeader, dataset_key
from saeserve.registry.dataset_errors import other_files
from saeserve.registry.names import checked_file_name
from saeserve.registry.roots import Roots
from saeserve.registry.stored import read_stored
from saeserve.registry.upload import UploadWriter, part_of

_HEADER = ".upload.json"
_REGISTERED = "registered.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class DatasetFiles:
    """Finds, takes in and registers files; which data set may have some is not its business."""

    def __init__(self, store: ArtifactStore, roots: Roots) -> None:
        self._store = store
        self._roots = roots

    def uploaded(self, name: str) -> list[DatasetFile]:
        """Files uploaded so far, complete or not."""
        names = self._store.names(dataset_key(name, "incoming"))
        files = [each.removesuffix(_HEADER) for each in names if each.endswith(_HEADER)]
        found = [self.upload(name, file) for file in files]
        return [file for file in found if file is not None]

    def upload(self, name: str, file_name: str) -> DatasetFile | None:
        """One upload, or None when it never began."""
        header = read_stored(self._store, self._header_key(name, file_name), UploadHeader)
        if header is None:
            return None
        final = self._final(name, file_name)
        path = final if final.exists() else part_of(final)
        received = path.stat().st_size if path.exists() else 0
        return DatasetFile(file_name, header.size_bytes, received, header.sha256, path)

    def begin_upload(self, header: UploadHeader) -> UploadWriter:
        """A writer for the file that `header` announces, going on where it broke off.

        Raises InvalidInput for a header that cannot be, Conflict when bytes of another file of
        that name have arrived, Overloaded when the disk has no room for it.
        """
        _check_header(header)
        started = self.upload(header.dataset, header.file_name)
        received = 0 if started is None else started.received_bytes
        if started is not None and received and _differs(started, header):
            raise Conflict(
                f"{received} bytes of another {header.file_name} have arrived",
                code="UPLOAD_DIFFERS",
                field="header.file_name",
                remedy="use another file name, or delete the data set",
            )
        self._store.check_room(header.size_bytes - received, "header.size_bytes")
        if not received:
            key = self._header_key(header.dataset, header.file_name)
            self._store.replace(key, header.model_dump_json().encode())
        final = self._final(header.dataset, header.file_name)
        return UploadWriter(header, final, self._store.check_room)

    def registered(self, name: str) -> tuple[str, ...] | None:
        """References registered with `name`, or None."""
        found = read_stored(self._store, dataset_key(name, _REGISTERED), Registered)
        return None if found is None else found.files

    def register(self, name: str, files: tuple[str, ...]) -> None:
        """Record `files` once. Raises Conflict when others are registered with `name`."""
        data = Registered(files=files).model_dump_json().encode()
        if self._store.put_if_absent(dataset_key(name, _REGISTERED), data):
            return
        if self.registered(name) != files:
            raise other_files(name)

    def check_registration(self, files: tuple[str, ...]) -> None:
        """Check that each reference is an activation file below its root, named once."""
        if not files:
            raise InvalidInput("no file is named", field="files", remedy="name at least one")
        seen: set[str] = set()
        for index, reference in enumerate(files):
            field = f"files[{index}]"
            path = self._roots.resolve(reference, field)
            checked_file_name(path.name, field)
            if not path.is_file():
                raise InvalidInput(
                    f"{reference!r} is not a file", field=field, remedy="name the files in it"
                )
            if path.name in seen:
                raise InvalidInput(
                    f"a file called {path.name} is listed twice", field=field, remedy="name it once"
                )
            seen.add(path.name)

    def linked(self, name: str) -> list[DatasetFile]:
        """Registered files as they are on disk now; what has gone missing has no bytes."""
        return [self._linked(reference) for reference in self.registered(name) or ()]

    def _linked(self, reference: str) -> DatasetFile:
        try:
            path = self._roots.resolve(reference)
        except (NotFound, InvalidInput):
            return DatasetFile(reference, -1, 0, "", Path())
        size = path.stat().st_size
        return DatasetFile(reference, size, size, "", path)

    def _final(self, name: str, file_name: str) -> Path:
        return self._store.path(dataset_key(name, f"incoming/{file_name}"))

    def _header_key(self, name: str, file_name: str) -> str:
        return dataset_key(name, f"incoming/{file_name}{_HEADER}")


def _differs(file: DatasetFile, header: UploadHeader) -> bool:
    return (file.size_bytes, file.sha256) != (header.size_bytes, header.sha256)


def _check_header(header: UploadHeader) -> None:
    checked_file_name(header.file_name, "header.file_name")
    if header.size_bytes < 1:
        raise InvalidInput(
            f"a file of {header.size_bytes} bytes holds no activations",
            field="header.size_bytes",
            remedy="announce the size of the file in bytes",
        )
    if not _SHA256.fullmatch(header.sha256):
        raise InvalidInput(
            f"{header.sha256!r} is not a sha256 sum",
            field="header.sha256",
            remedy="send 64 lower-case hexadecimal digits",
        )
