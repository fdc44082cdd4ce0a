"""How many processors this process may use: its own, or what its control groups leave of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from saeserve.platform.control_groups import folders, number, text

_ROOT = Path("/")


def processors(root: Path = _ROOT) -> int:
    """Number of processors that this process may run on, or of a CPU limit where that is less."""
    return quota(root) or _runnable()


def quota(root: Path = _ROOT) -> int:
    """Whole processors that a CPU limit of the control groups leaves, at least 1; 0 where no limit
    is tighter than the processors that this process may run on.

    Rounded down: threads of a loop wait for each other, so one that the kernel holds back for the
    rest of a period holds back all. `root` is where /proc and /sys lie.
    """
    tightest = min(_limits(root), default=float("inf"))
    return max(1, int(tightest)) if tightest < _runnable() else 0


def _limits(root: Path) -> Iterator[float]:
    """Processors that each group with a limit may use in the mean."""
    for folder, unified in folders(root, "cpu"):
        quota_us, period_us = _version_2(folder) if unified else _version_1(folder)
        if quota_us and period_us:
            yield quota_us / period_us


def _version_1(folder: Path) -> tuple[int | None, int | None]:
    """No limit is -1."""
    return number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")


def _version_2(folder: Path) -> tuple[int | None, int | None]:
    """ "max 100000", or microseconds in each period."""
    words = text(folder / "cpu.max").split()
    if len(words) != 2 or not words[0].isdigit():
        return None, None
    return int(words[0]), int(words[1])


def _runnable() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
