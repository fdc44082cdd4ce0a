"""The examples of a state in one order, so that equal states make equal bytes.

Shape suffixes: C features of a part, S slots, E entries of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saeserve.core.features.keys import keys_of
from saeserve.core.features.packing import EXAMPLE, Examples
from saeserve.core.features.state import OCTAVES, Collected, CollectSettings

SLOT_ARRAYS = (
    "position_FS",
    "value_FS",
    "left_FS",
    "right_FS",
    "used_FS",
    "offset_FSE",
    "activation_FSE",
)
"""The arrays of `Collected` that hold examples."""
_LAST = np.iinfo(np.uint64).max

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Slots:
    """Examples of some features; the fields are those of `Collected`, for features `start` on."""

    start: int
    position_CS: npt.NDArray[np.int64]
    value_CS: npt.NDArray[np.float32]
    left_CS: npt.NDArray[np.uint8]
    right_CS: npt.NDArray[np.uint8]
    used_CS: npt.NDArray[np.uint8]
    offset_CSE: npt.NDArray[np.int8]
    activation_CSE: npt.NDArray[np.float32]

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Every array, in the order of SLOT_ARRAYS."""
        places = (self.position_CS, self.value_CS, self.left_CS, self.right_CS, self.used_CS)
        return (*places, self.offset_CSE, self.activation_CSE)

    def columns(self, first: int, last: int) -> Slots:
        """Slots first .. last alone."""
        return Slots(self.start, *(array[:, first:last] for array in self.arrays))

    def joined(self, other: Slots) -> Slots:
        """These slots, and the other's behind them."""
        pairs = zip(self.arrays, other.arrays, strict=True)
        return Slots(self.start, *(np.concatenate(pair, axis=1) for pair in pairs))

    def ordered(self, order_CS: npt.NDArray[np.intp]) -> Slots:
        """Slots in another order."""
        index = (order_CS, order_CS[:, :, None])
        taken = (np.take_along_axis(a, index[a.ndim - 2], 1) for a in self.arrays)
        return Slots(self.start, *taken)

    def keys(self, seed: int) -> npt.NDArray[np.uint64]:
        """Random key of each example; the largest number for an empty slot."""
        features_C = np.arange(self.start, self.start + len(self.position_CS))
        return self._filled(keys_of(seed, features_C[:, None], self.position_CS), _LAST)

    def places(self) -> npt.NDArray[np.uint64]:
        """Position of each example; the largest number for an empty slot."""
        return self._filled(self.position_CS.astype(np.uint64), _LAST)

    def magnitudes(self) -> npt.NDArray[np.float64]:
        """Magnitude of each example, negated: the largest is sorted first, empty slots last."""
        return self._filled(-np.abs(self.value_CS.astype(np.float64)), np.inf)

    def octaves(self, lowest: int) -> npt.NDArray[np.float64]:
        """Octave of each example, negated as `magnitudes`."""
        return self._filled(-octave_of(self.value_CS, lowest).astype(np.float64), np.inf)

    def examples(self, index: int, group_S: npt.NDArray[np.uint8]) -> Examples:
        """Return those of the feature in row `index`, empty slots left out."""
        full = np.flatnonzero(self.position_CS[index] >= 0)
        used = self.used_CS[index, full]
        records = np.empty(len(full), EXAMPLE)
        names = ("position", "value", "left", "right", "used")
        for name, array in zip(names, self.arrays, strict=False):
            records[name] = array[index, full]
        records["group"] = group_S[full]
        kept = np.arange(int(self.offset_CSE.shape[2])) < used[:, None]
        offset, activation = self.offset_CSE[index, full], self.activation_CSE[index, full]
        return Examples(records, offset[kept], activation[kept])

    def _filled(self, array: Array, empty: float) -> Array:
        return np.where(self.position_CS < 0, array.dtype.type(empty), array)


def slots_of(collected: Collected, start: int, stop: int) -> Slots:
    """The examples of features start .. stop, as views."""
    return Slots(start, *(getattr(collected, name)[start:stop] for name in SLOT_ARRAYS))


def octave_of(value: npt.NDArray[np.float32], lowest: int) -> npt.NDArray[np.int32]:
    """Exponent of the power of two below each magnitude, held within the histogram's octaves."""
    return np.clip(np.frexp(value)[1] - 1, lowest, lowest + OCTAVES - 1)


def in_order(slots: Slots, settings: CollectSettings) -> Slots:
    """Top by magnitude (then position); uniform by key; intervals from the largest octave down,
    each by key; in each group, empty slots last."""
    top, first = settings.top, settings.first_interval
    parts = (slots.columns(0, top), slots.columns(top, first), slots.columns(first, settings.slots))
    by_size, uniform, intervals = parts
    keys = intervals.keys(settings.seed)
    sorted_parts = (
        by_size.ordered(np.lexsort((by_size.places(), by_size.magnitudes()), axis=1)),
        uniform.ordered(np.argsort(uniform.keys(settings.seed), axis=1)),
        intervals.ordered(np.lexsort((keys, intervals.octaves(settings.lowest_exponent)), axis=1)),
    )
    return sorted_parts[0].joined(sorted_parts[1]).joined(sorted_parts[2])
