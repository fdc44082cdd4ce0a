"""How much memory this process may use: the host's, or what its control groups leave of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saeserve.platform.control_groups import folders, number, text

_UNLIMITED = 2**60
"""Control groups of version 1 say "no limit" by a number near 2**63."""


@dataclass(frozen=True)
class _Files:
    """Where a version of control groups keeps its figures."""

    limit: str
    usage: str
    reclaimable: str
    """Line of memory.stat: cached file pages, which are given back under pressure."""


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def limit_bytes(root: Path = Path("/")) -> int:
    """The host's memory, or the tightest limit of a control group where that is less.

    `root` is where /proc and /sys lie.
    """
    limits = [limit for limit, _ in _groups(root)]
    return min([_meminfo(root, "MemTotal") or _physical(), *limits])


def free_bytes(root: Path = Path("/")) -> int:
    """What can be had now without pushing anybody out; cached files count as free."""
    left = [max(0, limit - usage) for limit, usage in _groups(root)]
    return min([_meminfo(root, "MemAvailable") or _physical(), *left])


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, usage) of this process's control groups that have a limit, and of those above."""
    for folder, unified in folders(root, "memory"):
        files = _V2 if unified else _V1
        limit = number(folder / files.limit)
        if limit is not None and limit < _UNLIMITED:
            usage = number(folder / files.usage) or 0
            yield limit, usage - _line(folder / "memory.stat", files.reclaimable, " ")


def _meminfo(root: Path, name: str) -> int:
    """A line of /proc/meminfo in bytes; 0 where there is none."""
    return 1024 * _line(root / "proc/meminfo", name, ":")


def _line(path: Path, name: str, separator: str) -> int:
    for line in text(path).splitlines():
        key, found, value = line.partition(separator)
        if found and key == name:
            return int(value.split()[0])
    return 0


def _physical() -> int:
    """Where there is no /proc."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
