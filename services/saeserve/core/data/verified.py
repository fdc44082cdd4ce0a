"""Files that are read through once and compared with the SHA-256 that was taken of them."""

from __future__ import annotations

from pathlib import Path

from saeserve.core.data.disk import sha256_of
from saeserve.errors import DataError

_Stamp = tuple[int, int, int]


class VerifiedFiles:
    """The files of one data set; each is hashed when it is first used, and again when another file
    has taken its place. Threads may share it: at worst two hash the same file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, _Stamp] = {}

    def check(self, name: str, sha256: str) -> None:
        """Raise DataError unless the bytes of the file `name` have this SHA-256 (hex)."""
        path = self._folder / name
        try:
            stamp = _stamp(path)
            if self._seen.get(name) == stamp:
                return
            found = sha256_of(path)
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror}", shard=name, remedy="restore the file"
            ) from error
        if found != sha256:
            raise DataError(
                f"its bytes were changed since it was written: sha256 {found}, not {sha256}",
                shard=name,
                remedy="restore the file, or write the data set again",
            )
        self._seen[name] = stamp


def _stamp(path: Path) -> _Stamp:
    """Inode, size and time of the last change: another for another file of the same name."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
