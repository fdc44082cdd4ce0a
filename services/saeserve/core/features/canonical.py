"""The examples of a state in one order, so that equal states make equal bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saeserve.core.features.keys import keys_of
from saeserve.core.features.packing import EXAMPLE, Examples
from saeserve.core.features.state import Collected, CollectSettings

_LAST = np.iinfo(np.uint64).max


@dataclass(frozen=True)
class OrderedExamples:
    """The slots of some features [C, S], each group in its order, empty slots last."""

    position: npt.NDArray[np.int64]
    value: npt.NDArray[np.float32]
    left: npt.NDArray[np.uint8]
    right: npt.NDArray[np.uint8]
    used: npt.NDArray[np.uint8]
    offset: npt.NDArray[np.int8]
    """[C, S, E], as are the activations."""
    activation: npt.NDArray[np.float32]

    def examples(self, index: int, group_S: npt.NDArray[np.uint8]) -> Examples:
        """Those of the feature in row `index`, empty slots left out."""
        full = np.flatnonzero(self.position[index] >= 0)
        records = np.empty(len(full), EXAMPLE)
        for name in ("position", "value", "left", "right", "used"):
            records[name] = getattr(self, name)[index, full]
        records["group"] = group_S[full]
        used: npt.NDArray[np.uint8] = records["used"]
        kept = np.arange(self.offset.shape[2]) < used[:, None]
        return Examples(records, self.offset[index, full][kept], self.activation[index, full][kept])


def in_order(collected: Collected, start: int, stop: int) -> OrderedExamples:
    """Features start .. stop: top by magnitude (then position); uniform by key; intervals from
    the largest octave down, each by key."""
    settings = collected.settings
    position = collected.position_FS[start:stop]
    value = collected.value_FS[start:stop]
    primary = _primary(settings, value)
    key = keys_of(settings.seed, np.arange(start, start + len(position))[:, None], position)
    key[:, : settings.top] = np.maximum(position[:, : settings.top], 0).astype(np.uint64)
    empty = position < 0
    key[empty], primary[empty] = _LAST, np.inf
    group = np.repeat(
        np.arange(3), (settings.top, settings.uniform, settings.intervals * settings.per_interval)
    )
    order = np.lexsort((key, primary, np.broadcast_to(group, key.shape)), axis=1)

    def ordered(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        index = order if array.ndim == 2 else order[:, :, None]
        return np.take_along_axis(array, index, 1)

    names = ("left_FS", "right_FS", "used_FS", "offset_FSE", "activation_FSE")
    others = (ordered(getattr(collected, name)[start:stop]) for name in names)
    return OrderedExamples(ordered(position), ordered(value), *others)


def _primary(settings: CollectSettings, value: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """What slots of a group are sorted by before their keys, smallest first."""
    primary = np.zeros(value.shape)
    primary[:, : settings.top] = -np.abs(value[:, : settings.top])
    intervals = value[:, settings.first_interval :]
    primary[:, settings.first_interval :] = -np.frexp(intervals)[1]
    return primary
