"""The artifact store: a directory whose commits are put-if-absent objects.

The store arbitrates; Redis indexes
(docs/DESIGN.md, "Processes"). Object stores follow behind the same calls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from saeserve.core.durable import held, is_temporary, locked, make_folders, sync, temporary_name
from saeserve.platform.store_errors import (
    bad_path,
    disk_full,
    no_room,
    read_only,
    store_unavailable,
)
from saeserve.platform.store_links import check_links

_RESERVED_PART, _MOST_RESERVED_BYTES = 20, 16 << 30


class Space(NamedTuple):
    """A disk: its size and what is free, in bytes."""

    total: int
    free: int


class ArtifactStore:
    """Files under one root, addressed by relative POSIX paths that cannot leave it."""

    def __init__(self, root: Path, reserve_bytes: int | None = None) -> None:
        """`reserve_bytes`: what uploads leave free on the disk for checkpoints and records of
        jobs; None takes a twentieth of the disk, at most 16 GiB."""
        self.root = root.resolve()
        self._reserve_bytes = reserve_bytes
        self._proof: Callable[[], None] = _unproven

    def guard(self, proof: Callable[[], None]) -> None:
        """Call `proof` around every change, and before reporting absence: it raises Unavailable
        while the folder is not the store, such as a volume that is not mounted."""
        self._proof = proof

    def path(self, key: str) -> Path:
        """Local path of `key`. Raises InvalidInput for a key that leaves the root."""
        pure = PurePosixPath(key)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in key:
            raise bad_path(
                f"{key!r} leaves the artifact store", remedy="use a relative path without '..'"
            )
        return self.root / pure

    def read(self, key: str) -> bytes | None:
        """Bytes of `key`, or None when it does not exist."""
        found = self._read(key)
        if found is None:
            self._proof()
            # The volume may have come back between the look and its proof.
            found = self._read(key)
        return found

    def _read(self, key: str) -> bytes | None:
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, key: str) -> bool:
        """Whether the file or folder `key` exists."""
        path = self.path(key)
        if path.exists():
            return True
        self._proof()
        return path.exists()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key` durably unless it exists; True for the one caller that created it.

        The commit point of everything: readers see the whole object or none. Written to a
        temporary name, synced, then linked, which fails when the name is taken.
        """
        with self._staged(key, data) as (staged, target):
            try:
                os.link(staged, target)
            except FileExistsError:
                return False
            sync(target.parent)
            # What was written below a mount point is hidden once the volume is back.
            self._proof()
            return True

    def replace(self, key: str, data: bytes) -> None:
        """Write `key` atomically over whatever is there. For pointers (aliases), not commits."""
        with self._staged(key, data) as (staged, target):
            os.replace(staged, target)
            sync(target.parent)

    def append(self, key: str, data: bytes) -> None:
        """Add `data` to the end of a file, durably; for logs. Several processes may at once."""
        self._proof()
        target = self.path(key)
        with writing():
            make_folders(target.parent)
            handle = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                with locked(handle):
                    os.write(handle, data)
                    os.fsync(handle)
            finally:
                os.close(handle)

    def names(self, key: str) -> list[str]:
        """Sorted names directly below the folder `key`; empty when it does not exist."""
        found = self._names(key)
        if not found:
            self._proof()
            found = self._names(key)
        return found

    def _names(self, key: str) -> list[str]:
        try:
            return sorted(
                entry.name for entry in os.scandir(self.path(key)) if not is_temporary(entry.name)
            )
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, key: str) -> None:
        """Remove the file or folder `key` and all below it; fine when it does not exist."""
        self._proof()
        target = self.path(key)
        with writing():
            if target.is_dir() and not target.is_symlink():
                doomed = target.with_name(temporary_name(target.name))
                with contextlib.suppress(FileNotFoundError):
                    target.rename(doomed)
                    shutil.rmtree(doomed)
            elif target.exists() or target.is_symlink():
                target.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Bytes that can still be written."""
        return self.space().free

    def space(self) -> Space:
        """The store's disk. Raises OSError when that does not answer."""
        disk = shutil.disk_usage(self.root)
        return Space(disk.total, disk.free)

    def check_writable(self) -> None:
        """Raise Unavailable while the store's file system is mounted for reading alone, as the
        kernel does itself after an error of the disk. Raises OSError as `space` does."""
        if os.statvfs(self.root).f_flag & os.ST_RDONLY:
            raise read_only()

    def check_room(self, needed: int, field: str = "") -> None:
        """Raise Overloaded (DISK_FULL) unless `needed` more bytes of uploads leave the reserve."""
        make_folders(self.root)
        disk = self.space()
        reserve = self._reserve_bytes
        if reserve is None:
            reserve = min(disk.total // _RESERVED_PART, _MOST_RESERVED_BYTES)
        if needed > disk.free - reserve:
            raise no_room(
                f"{needed} more bytes are announced; the store's disk has {disk.free} free, of "
                f"which {reserve} are kept for jobs",
                field,
            )

    def check(self) -> None:
        """Create the root and see that it can be written and has hard links, by which everything
        is committed. Raises Unavailable (STORE_UNAVAILABLE, STORE_WITHOUT_LINKS) when not."""
        try:
            make_folders(self.root)
            probe = self.root / temporary_name("probe")
            probe.write_bytes(b"")
            try:
                check_links(probe, self.root / temporary_name("link"))
            finally:
                probe.unlink()
        except OSError as error:
            raise store_unavailable(
                f"the artifact store {self.root} cannot be written: {error.strerror}",
                remedy="set SAESERVE_STORE to a writable directory with free space",
            ) from error

    @contextlib.contextmanager
    def _staged(self, key: str, data: bytes) -> Generator[tuple[Path, Path]]:
        self._proof()
        target = self.path(key)
        staged = target.with_name(temporary_name(target.name))
        with writing():
            try:
                make_folders(target.parent)
                with open(staged, "xb") as file, held(staged):
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    yield staged, target
            finally:
                staged.unlink(missing_ok=True)


def _unproven() -> None:
    """The proof of a store that nobody guards: tools and tests that own the folder."""


@contextlib.contextmanager
def writing() -> Generator[None]:
    """Raise Unavailable for what a write below the store meets on a disk that is full (DISK_FULL)
    or read-only (STORE_UNAVAILABLE); other errors stay themselves."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full() from error
        if error.errno == errno.EROFS:
            raise read_only() from error
        raise
