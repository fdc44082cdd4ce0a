"""What a job through the whole service took, as written to service.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bench.training.processes import JOB


@dataclass(frozen=True)
class ServiceCost:
    """One job, from its submission until a client saw that it had ended."""

    machine: dict[str, Any]
    spec: dict[str, Any]
    seconds: float
    cpu_seconds: dict[str, float]
    """User and system time of the job process and of each service with its children."""
    planned_bytes: int
    """The plan's memory for the job."""
    peak_bytes: int
    """VmHWM of the job process."""
    metrics: dict[str, float]
    """Figures of the published model."""

    @property
    def share(self) -> float:
        """CPU seconds of all other processes, of the job's."""
        others = sum(used for name, used in self.cpu_seconds.items() if name != JOB)
        return others / self.cpu_seconds[JOB]

    @property
    def memory_ratio(self) -> float:
        """Peak over plan."""
        return self.peak_bytes / self.planned_bytes

    def __str__(self) -> str:
        """One line."""
        used = ", ".join(f"{name} {value:.1f} s" for name, value in self.cpu_seconds.items())
        return (
            f"CPU: {used}: {self.share:.1%} of the job's on top; peak "
            f"{self.peak_bytes / 2**20:.0f} MiB, planned {self.planned_bytes / 2**20:.0f} MiB"
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> ServiceCost:
        """Read what `save` wrote. Raises FileNotFoundError."""
        written = json.loads(path.read_text())
        return cls(**{each.name: written[each.name] for each in fields(cls)})
