"""The curves of a training job, read from its `metrics.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

_FIXED = ("model", "step", "tokens", "time", "attempt")


@dataclass(frozen=True)
class CurvePoint:
    """One report of one model: averages over the steps since the report before."""

    model: str
    step: int
    """Optimiser steps done."""
    tokens: int
    """Activation rows trained on."""
    time: datetime
    attempt: int
    values: Mapping[str, float]
    """Figures by name, as docs/CURVES.md has them with their units."""


def read_curves(data: bytes) -> list[CurvePoint]:
    """The rows of a `metrics.csv`."""
    return [_point(row) for row in csv.DictReader(io.StringIO(data.decode(), newline=""))]


def _point(row: Mapping[str, str]) -> CurvePoint:
    return CurvePoint(
        model=row["model"],
        step=int(row["step"]),
        tokens=int(row["tokens"]),
        time=datetime.fromtimestamp(float(row["time"]), UTC),
        attempt=int(row["attempt"]),
        values={name: float(text) for name, text in row.items() if text and name not in _FIXED},
    )
