"""Random keys of firings: a hash of seed, feature and position, so that the firings that are drawn
do not depend on the order in which they come."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
"""Constants of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators", OOPSLA), whose finaliser mixes the keys."""
_WORD = (1 << 64) - 1


def seed_key(seed: int) -> np.uint64:
    """The seed as it goes into keys: two seeds that differ by one have unrelated keys."""
    return np.uint64(mixed(np.asarray(seed & _WORD, np.uint64)))


def mixed(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output for states z."""
    with np.errstate(over="ignore"):
        z = z + np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(FIRST)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(SECOND)
    return z ^ (z >> np.uint64(31))


def keys_of(
    seed: int, feature: npt.NDArray[np.integer], position: npt.NDArray[np.integer]
) -> npt.NDArray[np.uint64]:
    """Keys of firings, with the shape to which feature and position broadcast."""
    feature_key = mixed(np.asarray(feature).astype(np.uint64) ^ seed_key(seed))
    return mixed(feature_key ^ np.asarray(position).astype(np.uint64))
