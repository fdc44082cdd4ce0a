"""Benchmark results: one record a run as JSON; means, standard errors, tables."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "results"
RunKey = tuple[str, str, str, int]


@dataclass(frozen=True)
class Run:
    """One trained dictionary and its figures."""

    library: str
    name: str
    """Name of the preset or architecture."""
    variant: str
    """"default", "our rate", or empty where there is one only."""
    seed: int
    figures: dict[str, float]
    seconds: float

    @property
    def key(self) -> RunKey:
        """Which run this is."""
        return self.library, self.name, self.variant, self.seed


@dataclass(frozen=True)
class Results:
    """Everything of one benchmark."""

    benchmark: str
    setting: dict[str, Any]
    fingerprints: dict[str, str]
    """Fingerprints of the samples, by seed."""
    runs: tuple[Run, ...]

    def save(self, path: Path) -> None:
        """Write as JSON, with the software and the kind of machine, never its name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        value = asdict(self) | {"environment": environment()}
        path.write_text(json.dumps(value, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote. Raises FileNotFoundError."""
        value = json.loads(path.read_text())
        runs = tuple(Run(**run) for run in value["runs"])
        return cls(value["benchmark"], value["setting"], value["fingerprints"], runs)

    def kept(self, path: Path) -> Results:
        """With the runs that stand at `path`, where they are of the same samples and setting."""
        if not path.exists():
            return self
        found = Results.load(path)
        same = (found.benchmark, found.setting, found.fingerprints) == (
            self.benchmark,
            self.setting,
            self.fingerprints,
        )
        return replace(self, runs=found.runs) if same else self


def environment() -> dict[str, str]:
    """What the figures may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its standard error (NaN for a single run)."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Mean and standard error of at least one value."""
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), error)

    def __str__(self) -> str:
        """Three decimals."""
        return f"{self.mean:.3f}" if math.isnan(self.error) else f"{self.mean:.3f}±{self.error:.3f}"


Key = tuple[str, str, str]


def estimates(runs: Iterable[Run], figure: str) -> dict[Key, Estimate]:
    """The figure of every (library, name, variant) over its seeds, in order of appearance."""
    values: dict[Key, list[float]] = {}
    for run in runs:
        values.setdefault((run.library, run.name, run.variant), []).append(run.figures[figure])
    return {key: Estimate.of(found) for key, found in values.items()}


def table(runs: Sequence[Run], figures: Sequence[str]) -> str:
    """One line a (library, name, variant), one column a figure."""
    columns = [estimates(runs, figure) for figure in figures]
    head = ["library", "model", "variant", *figures, "seconds"]
    lines = [
        [*key, *(str(column[key]) for column in columns), f"{_seconds(runs, key):.0f}"]
        for key in columns[0]
    ]
    return aligned([head, *lines])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells padded to the width of their column."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _seconds(runs: Sequence[Run], key: Key) -> float:
    found = [r.seconds for r in runs if (r.library, r.name, r.variant) == key]
    return statistics.fmean(found)
