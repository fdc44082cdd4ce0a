"""Files of foreign models that clients upload for import: uploads/<id>/ in the store.

The id follows from the files announced, so whoever announces the same files again goes on with
the same upload. Nothing here is a model: an import_model job reads it and publishes one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saeserve.core.durable import make_folders
from saeserve.errors import NotFound
from saeserve.platform.auth.caller import Caller
from saeserve.platform.store import ArtifactStore
from saeserve.registry.dataset import UploadHeader
from saeserve.registry.refusals import no_file, upload_incomplete
from saeserve.registry.upload import UploadWriter, part_of
from saeserve.registry.upload_paths import (
    Announced,
    UploadManifest,
    checked_files,
    checked_resource,
    gone,
    is_resource,
    nothing_there,
    resource_of,
    split_path,
)

_MANIFEST, _FILES = "upload.json", "files"


@dataclass(frozen=True)
class Upload:
    """An upload, and how much of each file is safely stored."""

    resource: str
    files: tuple[Announced, ...]
    received: dict[str, int]
    stored: frozenset[str]
    """Names of the files that are there and verified."""
    used: float
    """When it was last used, in seconds since the epoch."""

    def file(self, name: str) -> Announced:
        """Size and digest that a file was announced with; it must be among `files`."""
        return next(file for file in self.files if file.name == name)

    @property
    def missing_bytes(self) -> int:
        """Bytes that have not arrived."""
        return sum(file.size_bytes - self.received[file.name] for file in self.files)

    @property
    def complete(self) -> bool:
        """Whether every file is there and verified."""
        return len(self.stored) == len(self.files)


class ModelUploads:
    """Makes, fills, finds and removes uploads."""

    def __init__(self, store: ArtifactStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    def create(self, files: Sequence[Announced], owner: str = "") -> Upload:
        """The owner's upload of these files, made unless it is there; it counts as used now.

        Raises InvalidInput for files that cannot be, Overloaded (DISK_FULL) when what is
        missing does not fit the disk.
        """
        checked = checked_files(files)
        resource = resource_of(checked, owner)
        self._store.check_room(self._state(resource, checked).missing_bytes, "files")
        data = UploadManifest(files=checked, owner=owner).model_dump_json(indent=1).encode()
        self._store.put_if_absent(f"{resource}/{_MANIFEST}", data)
        self.use(resource)
        for file in checked:
            if not file.size_bytes:
                self._make_empty(self._final(resource, file.name))
        return self.get(resource)

    def get(self, resource: str) -> Upload:
        """The upload. Raises InvalidInput for what names none, NotFound."""
        return self._state(resource, self._manifest(resource).files)

    def check_owner(self, resource: str, caller: Caller) -> None:
        """Raise NotFound, as for an upload that is not there, unless it is the caller's."""
        if not caller.admin and not caller.owns(self._manifest(resource).owner):
            raise gone(resource)

    def begin(self, resource: str, name: str) -> UploadWriter:
        """A writer for one announced file, going on where it broke off. Raises NotFound."""
        for file in self._manifest(resource).files:
            if file.name == name:
                self.use(resource)
                header = UploadHeader(
                    dataset=resource, file_name=name, size_bytes=file.size_bytes, sha256=file.sha256
                )
                final = self._final(resource, name)
                return UploadWriter(header, final, self._store.check_room, gone(resource))
        raise no_file(
            f"{resource} announces no file {name!r}",
            field="header.name",
            remedy="announce it in CreateUpload",
        )

    def announced_bytes(self, resource: str, owner: str) -> int:
        """Bytes that an upload will have once all has arrived; 0 for that of another owner."""
        try:
            manifest = self._manifest(resource)
        except NotFound:  # it was removed meanwhile
            return 0
        return sum(file.size_bytes for file in manifest.files) if manifest.owner == owner else 0

    def use(self, resource: str) -> None:
        """Count the upload as used now, which puts its expiry off. Raises NotFound."""
        now = self._clock()
        self._manifest(resource)
        os.utime(self._store.path(f"{resource}/{_MANIFEST}"), (now, now))

    def check_complete(self, path: str, field: str) -> int:
        """Bytes of the files at `path`, which a job is about to read.

        Raises InvalidInput and NotFound, and FailedPrecondition while bytes are missing.
        """
        resource, below = split_path(path, field)
        upload = self.get(resource)
        chosen = [file for file in upload.files if PurePosixPath(file.name).is_relative_to(below)]
        if not chosen:
            raise nothing_there(path, field)
        if not upload.complete:
            raise upload_incomplete(
                f"{upload.missing_bytes} bytes of {resource} have not arrived",
                remedy="upload the rest; CreateUpload says what has arrived",
                field=field,
            )
        self.use(resource)
        return sum(file.size_bytes for file in chosen)

    def resolve(self, path: str, field: str = "") -> Path:
        """The file or folder in the store that `path` names. Raises InvalidInput, NotFound."""
        resource, below = split_path(path, field)
        found = self._store.path(f"{resource}/{_FILES}") / below
        if not found.exists():
            raise nothing_there(path, field)
        return found

    def resources(self) -> list[str]:
        """Every upload, and what is left of one that was removed half-way."""
        found = (f"uploads/{name}" for name in self._store.names("uploads"))
        return [resource for resource in found if is_resource(resource)]

    def last_used(self, resource: str) -> float:
        """When the upload was last used; of a remnant, when its folder last changed."""
        for key in (f"{resource}/{_MANIFEST}", resource):
            if self._store.exists(key):
                return self._store.path(key).stat().st_mtime
        return 0.0

    def remove(self, resource: str) -> None:
        """Remove an upload and its files. Raises InvalidInput for what names none."""
        self._store.remove(checked_resource(resource))

    def _manifest(self, resource: str) -> UploadManifest:
        data = self._store.read(f"{checked_resource(resource)}/{_MANIFEST}")
        if data is None:
            raise gone(resource)
        return UploadManifest.model_validate_json(data)

    def _state(self, resource: str, files: tuple[Announced, ...]) -> Upload:
        finals = {file.name: self._final(resource, file.name) for file in files}
        stored = frozenset(name for name, final in finals.items() if final.exists())
        parts = {name: part_of(final) for name, final in finals.items() if name not in stored}
        received = {name: _size_of(part) for name, part in parts.items()}
        received |= {file.name: file.size_bytes for file in files if file.name in stored}
        return Upload(resource, files, received, stored, self.last_used(resource))

    @staticmethod
    def _make_empty(final: Path) -> None:
        make_folders(final.parent)
        final.touch()

    def _final(self, resource: str, name: str) -> Path:
        return self._store.path(f"{resource}/{_FILES}/{name}")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
