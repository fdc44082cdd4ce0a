"""What one pass keeps of every feature: fixed memory, whatever the number of tokens.

Everything is a sum of integers or the best of a total order, so a state does not depend on how the
tokens were cut into blocks or shards, nor on the order in which they came.

Shape suffixes: F d_sae, P the four powers, B histogram bins, S slots (examples kept of a feature),
E entries of an example's window, V tokens of the vocabulary, R features kept of a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from saeserve.errors import SpecError

BINS = 64
BINS_PER_OCTAVE = 4
OCTAVES = BINS // BINS_PER_OCTAVE
POWERS = 4
FRACTION_BITS = (32, 24, 16, 8)
"""Moments are counted in units of 2^-bits · 2^(power · lowest_exponent); one number a power."""
DEFAULT_LOWEST_EXPONENT = -6
OCTAVES_ABOVE = 8
"""Activations so many octaves above the histogram are refused: moments would run over."""

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class CollectSettings:
    """Sizes of a state. Two states can be merged only when theirs are equal."""

    d_sae: int
    vocabulary: int = 0
    """Rows of the token index; 0 keeps none."""
    seed: int = 0
    """Keys of the random examples."""
    lowest_exponent: int = DEFAULT_LOWEST_EXPONENT
    """The histogram begins at 2^lowest_exponent; smaller magnitudes count in its first bin."""
    top: int = 16
    """Largest activations kept of a feature, at most one a sequence."""
    uniform: int = 16
    """Firings drawn from all of a feature's."""
    intervals: int = 5
    """Octaves of magnitude, from that of the maximum down, from which firings are drawn."""
    per_interval: int = 4
    window: int = 32
    """Tokens shown on either side of a firing."""
    entries: int = 12
    """Activations kept in a window; where there are more, the window becomes narrower."""
    token_features: int = 16
    """Features kept of a token."""

    def __post_init__(self) -> None:
        for name in ("d_sae", "top", "uniform", "intervals", "per_interval", "entries"):
            if getattr(self, name) < 1:
                raise SpecError(name, "must be at least 1")
        if not 0 <= self.window <= np.iinfo(np.int8).max:
            raise SpecError("window", "must be between 0 and 127 tokens")

    @property
    def slots(self) -> int:
        """Examples kept of a feature: top, then uniform, then one group for each interval."""
        return self.top + self.uniform + self.intervals * self.per_interval

    @property
    def first_interval(self) -> int:
        """Slot at which the intervals begin."""
        return self.top + self.uniform

    @property
    def largest(self) -> float:
        """Magnitudes from here on are refused."""
        return 2.0 ** (self.lowest_exponent + OCTAVES + OCTAVES_ABOVE)


def lowest_exponent_for(largest: float) -> int:
    """Exponent that puts `largest`, a model's known maximum, into the histogram's last octave but
    one; the default where it is not known (0)."""
    if not 0 < largest < math.inf:
        return DEFAULT_LOWEST_EXPONENT
    return math.frexp(largest)[1] + 1 - OCTAVES


@dataclass(frozen=True)
class Collected:
    """The state of a pass; `new_state` makes an empty one."""

    settings: CollectSettings
    count_F: npt.NDArray[np.int64]
    """Firings."""
    max_F: npt.NDArray[np.float32]
    """Largest magnitude."""
    moment_high_FP: npt.NDArray[np.int64]
    moment_low_FP: npt.NDArray[np.uint64]
    """Sums of a, a², a³, a⁴ as integers of 128 bits, in units of FRACTION_BITS."""
    histogram_FB: npt.NDArray[np.uint32]
    position_FS: npt.NDArray[np.int64]
    """Where in the token file an example is; -1 for an empty slot."""
    value_FS: npt.NDArray[np.float32]
    windows_FS: npt.NDArray[np.void]
    """What stands around an example, side by side; the next five arrays are its fields."""
    left_FS: npt.NDArray[np.uint8]
    right_FS: npt.NDArray[np.uint8]
    """Tokens of the window before and after the example."""
    used_FS: npt.NDArray[np.uint8]
    offset_FSE: npt.NDArray[np.int8]
    activation_FSE: npt.NDArray[np.float32]
    """The first `used_FS` entries: firings of the feature in the window, as distance from the
    example and activation; every firing between `left` and `right` is there."""
    token_count_V: npt.NDArray[np.int64]
    token_feature_VR: npt.NDArray[np.int32]
    """Features that fire most on a token; -1 for none."""
    token_score_VR: npt.NDArray[np.float32]

    def arrays(self) -> dict[str, Array]:
        """Every array by its name, windows by their fields."""
        names = [one.name for one in fields(self) if one.name not in ("settings", "windows_FS")]
        return {name: getattr(self, name) for name in names}

    @property
    def size_bytes(self) -> int:
        """Memory of all arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def moments(self) -> npt.NDArray[np.float64]:
        """Sums of a, a², a³, a⁴ over each feature's firings, float64 [d_sae, 4]."""
        power_P = np.arange(1, POWERS + 1)
        exponent_P = power_P * self.settings.lowest_exponent - np.asarray(FRACTION_BITS)
        whole_FP = np.ldexp(self.moment_high_FP.astype(np.float64), 64) + self.moment_low_FP
        return np.ldexp(whole_FP, exponent_P)


def _window_record(entries: int) -> np.dtype[np.void]:
    """What a slot knows of its window, side by side: with 12 entries the 64 bytes of one line of a
    processor's cache, since a slot that is written is seldom in the cache."""
    fields = [("left", "u1"), ("right", "u1"), ("used", "u1")]
    arrays = [("offset", "i1", (entries,)), ("activation", "<f4", (entries,))]
    return np.dtype([*fields, *arrays], align=True)


def new_state(settings: CollectSettings) -> Collected:
    """Return a state that has seen no token."""
    d_sae, slots, vocabulary = settings.d_sae, settings.slots, settings.vocabulary
    windows_FS = np.zeros((d_sae, slots), _window_record(settings.entries))
    return Collected(
        settings,
        count_F=np.zeros(d_sae, np.int64),
        max_F=np.zeros(d_sae, np.float32),
        moment_high_FP=np.zeros((d_sae, POWERS), np.int64),
        moment_low_FP=np.zeros((d_sae, POWERS), np.uint64),
        histogram_FB=np.zeros((d_sae, BINS), np.uint32),
        position_FS=np.full((d_sae, slots), -1, np.int64),
        value_FS=np.zeros((d_sae, slots), np.float32),
        windows_FS=windows_FS,
        left_FS=windows_FS["left"],
        right_FS=windows_FS["right"],
        used_FS=windows_FS["used"],
        offset_FSE=windows_FS["offset"],
        activation_FSE=windows_FS["activation"],
        token_count_V=np.zeros(vocabulary, np.int64),
        token_feature_VR=np.full((vocabulary, settings.token_features), -1, np.int32),
        token_score_VR=np.zeros((vocabulary, settings.token_features), np.float32),
    )


def state_bytes(settings: CollectSettings) -> int:
    """Memory of a state, before one is made."""
    example = 8 + 4 + _window_record(settings.entries).itemsize
    feature = 8 + 4 + 16 * POWERS + 4 * BINS + settings.slots * example
    return settings.d_sae * feature + settings.vocabulary * (8 + 8 * settings.token_features)
