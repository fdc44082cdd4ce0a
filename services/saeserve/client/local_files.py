"""Where a download gathers on this machine: a folder that has its name only when it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from saeserve.client.errors import AlreadyExistsError, ClientError, PreconditionError
from saeserve.client.refusals import local_file

STATE = ".saeserve-download.json"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a resource. `sha256` is empty where the server learns it by reading the file."""

    name: str
    size_bytes: int
    etag: str
    sha256: str


@dataclass(frozen=True)
class Listing:
    """What a resource means now, and its files."""

    resource: str
    files: tuple[RemoteFile, ...]


class LocalFolder:
    """Gathers the files of a listing in `<target>.part`, and renames that when all are there.

    What an earlier call left there is kept where it is of the same files, by their etags.
    """

    def __init__(self, target: Path, listing: Listing) -> None:
        """Raises AlreadyExistsError when `target`, or something else, is in the way."""
        if target.exists() or target.is_symlink():
            raise _in_the_way(target)
        self.target = target
        self.part = target.with_name(target.name + ".part")
        self._listing = listing
        self._begin()

    def path(self, file: RemoteFile) -> Path:
        """Where a file lies once it is complete. Raises ClientError for a name that leaves here."""
        pure = PurePosixPath(file.name)
        parts = file.name.split("/")
        if pure.is_absolute() or not all(parts) or {".", ".."} & set(parts) or "\\" in file.name:
            raise ClientError(
                f"the server lists a file called {file.name!r}",
                code="INTERNAL",
                reason="BAD_NAME",
                field="name",
                remedy="use another server: a name like this could leave the folder",
            )
        return self.part / pure

    def missing(self) -> list[RemoteFile]:
        """The files that are not complete."""
        return [file for file in self._listing.files if not self.path(file).exists()]

    def check_room(self) -> None:
        """Raise PreconditionError when the disk cannot take what is missing."""
        needed = sum(file.size_bytes - size_of(part_of(self.path(file))) for file in self.missing())
        free = shutil.disk_usage(self.part).free
        if needed > free:
            raise PreconditionError(
                f"{needed} more bytes are to come and {free} are free at {self.part}",
                reason="LOCAL_DISK_FULL",
                field="folder",
                remedy="free space, or download to another disk",
            )

    def finish(self) -> None:
        """Give the folder its name."""
        try:
            self.part.rename(self.target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise _in_the_way(self.target) from error
            raise
        (self.target / STATE).unlink(missing_ok=True)

    def _begin(self) -> None:
        if self.part.exists():
            self._drop_changed()
        self.part.mkdir(parents=True, exist_ok=True)
        state = {
            "resource": self._listing.resource,
            "etags": {file.name: file.etag for file in self._listing.files},
        }
        staged = self.part / f"{STATE}.new"
        staged.write_text(json.dumps(state, indent=1))
        staged.replace(self.part / STATE)

    def _drop_changed(self) -> None:
        """Remove what is left of another resource, or of files that have changed since."""
        before = self._state()
        now = {file.name: file.etag for file in self._listing.files}
        for name, etag in before.items():
            if now.get(name) != etag:
                path = self.path(RemoteFile(name, 0, "", ""))
                for old in (path, part_of(path)):
                    old.unlink(missing_ok=True)

    def _state(self) -> Mapping[str, str]:
        """Etags of the files that an earlier call began with."""
        if self.part.is_dir() and not any(self.part.iterdir()):
            return {}
        try:
            state = cast("dict[str, Any]", json.loads((self.part / STATE).read_bytes()))
            return dict(state["etags"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _in_the_way(self.part) from error


def path_of(value: object) -> Path | None:
    """The path that a user passed, or None for anything else."""
    if isinstance(value, str):
        return Path(value)
    return Path(cast("os.PathLike[str]", value)) if isinstance(value, os.PathLike) else None


def part_of(path: Path) -> Path:
    """Where a file's bytes gather until it is complete and verified."""
    return path.with_name(path.name + ".part")


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when there is none."""
    return path.stat().st_size if path.exists() else 0


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file, a block at a time."""
    while block := file.read(_BLOCK):
        yield block


def file_sha256(path: Path) -> str:
    """Lower-case hex of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish_file(part: Path, final: Path) -> None:
    """Give a verified file its name, durably."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(final)


@contextlib.contextmanager
def local_errors(what: str) -> Generator[None]:
    """Raise what this machine's files refuse as a PreconditionError that names `what`."""
    try:
        yield
    except OSError as error:
        raise local_file(
            f"{what}: {error.strerror or error}: {error.filename or ''}".rstrip(": "),
            field="path",
            remedy="look at this machine's disk and permissions, then repeat: it goes on from here",
        ) from error


def _in_the_way(path: Path) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"{path} exists already",
        reason="LOCAL_EXISTS",
        field="folder",
        remedy="move it away, or download to another place",
    )
