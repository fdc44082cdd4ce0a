"""The control groups of this process, as different kernels and containers show them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

UNIFIED = ""
"""Version 2 has one hierarchy for all controllers, without a name."""


def folders(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """(folder, whether of version 2) of this process's groups that `controller` ("memory", "cpu")
    may limit, and of those above. `root` is where /proc and /sys lie."""
    mounted = root / "sys/fs/cgroup"
    for line in text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        unified = controllers == UNIFIED
        if unified:
            top = mounted
        elif controller in controllers.split(","):
            # Mounted under the whole name, mostly with a link for each of its controllers.
            alone = mounted / controller
            top = alone if alone.is_dir() else mounted / controllers
        else:
            continue
        # Inside a container the path may be the host's, which is not mounted there.
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(top):
                yield folder, unified


def number(path: Path) -> int | None:
    """The number that the file holds; None for "max", and where there is no file."""
    found = text(path).strip()
    return int(found) if found.isdigit() else None


def text(path: Path) -> str:
    """What the file holds; "" where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
