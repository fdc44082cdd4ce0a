"""What a sweep and its members alone took as jobs, as written to sweep_jobs.json."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SweepJobs:
    """Seconds from submission to the end, of every round."""

    machine: Mapping[str, Any]
    members: int
    tokens: int
    """Rows that each member trains on."""
    sweep_seconds: tuple[float, ...]
    """Times of one job that holds all members."""
    separate_seconds: tuple[float, ...]
    """Times of as many jobs as there are members, submitted together to one worker."""

    def with_round(self, sweep: float, separate: float) -> SweepJobs:
        """These and one round more."""
        return replace(
            self,
            sweep_seconds=(*self.sweep_seconds, sweep),
            separate_seconds=(*self.separate_seconds, separate),
        )

    @property
    def ratios(self) -> list[float]:
        """How many times faster the sweep was, for each round."""
        rounds = zip(self.separate_seconds, self.sweep_seconds, strict=True)
        return [separate / sweep for separate, sweep in rounds]

    def __str__(self) -> str:
        """One line."""
        sweep = statistics.median(self.sweep_seconds)
        separate = statistics.median(self.separate_seconds)
        return (
            f"{self.members} members of {self.tokens:,} tokens each: {sweep:.0f} s as a sweep, "
            f"{separate:.0f} s as jobs of their own"
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> SweepJobs:
        """Read what `save` wrote. Raises FileNotFoundError."""
        value = json.loads(path.read_text())
        lists = {n: tuple(value[n]) for n in ("sweep_seconds", "separate_seconds")}
        return cls(**value | lists)
