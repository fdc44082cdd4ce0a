"""One figure of an evaluation with what a reader needs to judge it.

Definitions have an id with a version, "fvu/1": a change of what is computed makes another one. They
stand in docs/DESIGN.md, "Metrics of an evaluation".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeserve.core.evaluation.bootstrap import Sample, bounds

Values = NDArray[np.float64]
Sums = Mapping[str, Values]
"""Sums over a sample by name: one value each, or one for each resample."""
Statistic = Callable[[Sums], Values]


@dataclass(frozen=True)
class Metric:
    """A value, the interval of 95 % confidence where one is known, and what was counted."""

    name: str
    definition: str
    value: float
    unit: str
    n: int
    counted: str
    """What there are `n` of."""
    seed: int
    """Seed of the resampling, and of what else is drawn."""
    low: float | None = None
    high: float | None = None
    stratum: str = ""
    """The part of the tokens that it is of; empty for all."""

    def to_json(self) -> dict[str, Any]:
        """The API's EvaluationMetric."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Measured:
    """A sample of sums by unit, from which metrics with intervals come."""

    sample: Sample
    counted: str
    rows: str
    """Name of the column that counts."""
    seed: int

    def metric(
        self, name: str, unit: str, statistic: Statistic, *, definition: str = "", stratum: str = ""
    ) -> Metric:
        """The statistic of all units, and its interval by resampling them."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(self.sample.totals))
            resampled = statistic(self.sample.resampled(self.seed))
        low, high = bounds(resampled, self.sample.units)
        return Metric(
            name, definition or f"{name}/1", value, unit, int(self.sample.totals[self.rows]),
            self.counted, self.seed, low, high, stratum,
        )  # fmt: skip


def known(metrics: list[Metric]) -> list[Metric]:
    """Leave out those whose value is not a number: JSON has no place for them."""
    return [metric for metric in metrics if math.isfinite(metric.value)]
