"""Confidence intervals by drawing whole sequences again: their tokens are not independent.

Percentiles of the resamples (Efron 1979), at levels moved outwards for few units as Student's t is
wider than the normal distribution (Hesterberg 2015, "What Teachers Should Know About the
Bootstrap", section 5.3). Shape suffixes: U units, R resamples, M columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95
MOST_UNITS = 4096
"""More units than these are drawn in runs of neighbours."""
_FEWEST = 2
_NORMAL = NormalDist()

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Sums of named quantities by unit, float64 [U] each."""

    columns: Mapping[str, Values]

    @property
    def units(self) -> int:
        """How many there are."""
        return len(next(iter(self.columns.values())))

    @cached_property
    def totals(self) -> Mapping[str, Values]:
        """Sums over all units."""
        return {name: column_U.sum() for name, column_U in self.columns.items()}

    def resampled(self, seed: int, resamples: int = RESAMPLES) -> Mapping[str, Values]:
        """Sums over as many units drawn with replacement, [R] each; the same draws for all."""
        sums_UM = _merged(np.stack(list(self.columns.values()), axis=1))
        drawn_RM = drawn(len(sums_UM), seed, resamples) @ sums_UM
        return dict(zip(self.columns, drawn_RM.T, strict=True))


@lru_cache(maxsize=4)
def drawn(units: int, seed: int, resamples: int = RESAMPLES) -> Values:
    """How often each unit is in each resample, [R, U]."""
    draws = np.random.default_rng(seed)
    return draws.multinomial(units, np.full(units, 1 / units), resamples).astype(np.float64)


def bounds(values_R: Values, units: int) -> tuple[float | None, float | None]:
    """The interval of CONFIDENCE; None where the units are too few or a resample has no value."""
    if units < _FEWEST or not np.isfinite(values_R).all():
        return None, None
    tail = _tail(min(units, MOST_UNITS))
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return float(low), float(high)


def _tail(units: int) -> float:
    """The share of resamples on either side of the interval."""
    z, freedom = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2), units - 1
    # Student's quantile, by the first terms of its expansion in 1 / freedom.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return _NORMAL.cdf(-t * math.sqrt(units / freedom))


def _merged(sums_UM: Values) -> Values:
    """At most MOST_UNITS units, neighbours together."""
    if len(sums_UM) <= MOST_UNITS:
        return sums_UM
    starts = np.linspace(0, len(sums_UM), MOST_UNITS, endpoint=False).astype(np.int64)
    return np.add.reduceat(sums_UM, starts)


class UnitSums:
    """Sums by unit over batches; a unit may go on in a later batch."""

    def __init__(self, names: Iterable[str]) -> None:
        """Nothing so far."""
        self._names = tuple(names)
        self._place: dict[int, int] = {}
        self._rows: list[Values] = []

    def add(self, unit_B: NDArray[np.int64], values: Mapping[str, Values]) -> NDArray[np.int64]:
        """Take in values [B] of rows; the number of each row's unit, in order of appearance."""
        table_BM = np.stack([values[name] for name in self._names], axis=1)
        units, inverse_B = np.unique(unit_B, return_inverse=True)
        sums = np.zeros((len(units), len(self._names)))
        np.add.at(sums, inverse_B, table_BM)
        places = np.array([self._place_of(int(unit)) for unit in units], np.int64)
        for place, row in zip(places, sums, strict=True):
            self._rows[place] = self._rows[place] + row
        return places[inverse_B]

    def sample(self) -> Sample:
        """What was taken in."""
        table_UM = np.stack(self._rows)
        return Sample(dict(zip(self._names, table_UM.T, strict=True)))

    def _place_of(self, unit: int) -> int:
        if unit not in self._place:
            self._place[unit] = len(self._rows)
            self._rows.append(np.zeros(len(self._names)))
        return self._place[unit]
