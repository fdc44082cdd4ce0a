"""Files of the store that are no longer needed: how they are reported, measured and found."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saeserve.core.durable import in_use, is_temporary
from saeserve.platform.store import ArtifactStore


@dataclass(frozen=True)
class Leftover:
    """A file or folder of the store that can go, or will."""

    key: str
    bytes: int
    why: str
    """What it is, for the person who reads it."""
    kept: str = ""
    """Why it stays for now; empty when it can go."""


def temporaries(store: ArtifactStore, safe_s: float, now: float) -> Iterator[Leftover]:
    """Temporary files and folders, wherever they lie.

    One can go when no living process holds it and nothing in it was changed for `safe_s` seconds,
    for there are file systems without locks. `now` in seconds since the epoch.
    """
    for path in _temporary_paths(store.root):
        try:
            found = Leftover(
                path.relative_to(store.root).as_posix(),
                size_of(path),
                "a temporary that was being written",
                _kept(path, safe_s, now),
            )
        except FileNotFoundError:  # its writer has just finished
            continue
        yield found


def remove_abandoned(store: ArtifactStore, key: str) -> None:
    """Remove the temporaries below the folder `key`, however young, that no process holds.

    For callers who know that whoever wrote there has ended. Raises OSError, ServiceError.
    """
    for path in list(_temporary_paths(store.path(key))):
        if not in_use(path):
            store.remove(path.relative_to(store.root).as_posix())


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(each.lstat().st_size for each in _tree(path) if not each.is_dir())


def last_change(path: Path) -> float:
    """When a file, or the folder or anything in it, was last changed; seconds since the epoch."""
    return max(each.lstat().st_mtime for each in _tree(path))


def _kept(path: Path, safe_s: float, now: float) -> str:
    if in_use(path):
        return "a process is writing it"
    age = now - last_change(path)
    return f"changed {max(age, 0.0):.0f} s ago, less than {safe_s:.0f} s" if age < safe_s else ""


def _tree(path: Path) -> Iterator[Path]:
    """`path` and all below it; links are not followed."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *files))


def _temporary_paths(folder: Path) -> Iterator[Path]:
    """The topmost temporaries below `folder`."""
    # A folder that we may not read (the lost+found of a volume) holds nothing that we wrote.
    gone = contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError)
    with gone, os.scandir(folder) as entries:
        for entry in entries:
            if is_temporary(entry.name):
                yield Path(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                yield from _temporary_paths(Path(entry.path))
