"""Two states as one: what merging the shards of a pass gives equals one pass over all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from saeserve.core.features.canonical import Slots, octave_of, slots_of
from saeserve.core.features.state import Collected, CollectSettings
from saeserve.errors import DataMismatchError

CHUNK = 2048
"""Features, or tokens, merged at a time: what memory merging needs."""


def merge(into: Collected, other: Collected) -> None:
    """Add `other`, a state of other sequences of the same pass, to `into`.

    Raises DataMismatchError for states of other settings.
    """
    if into.settings != other.settings:
        raise DataMismatchError(
            "two states of other settings cannot be merged",
            remedy="collect both shards with the same model, seed and sizes",
        )
    _add_figures(into, other)
    for start in range(0, into.settings.d_sae, CHUNK):
        _merge_examples(into, other, start, start + CHUNK)
    for start in range(0, into.settings.vocabulary, CHUNK):
        _merge_tokens(into, other, slice(start, start + CHUNK))


def _add_figures(into: Collected, other: Collected) -> None:
    into.count_F[:] += other.count_F
    into.histogram_FB[:] += other.histogram_FB
    into.token_count_V[:] += other.token_count_V
    np.maximum(into.max_F, other.max_F, out=into.max_F)
    into.moment_low_FP[:] += other.moment_low_FP
    carry_FP = into.moment_low_FP < other.moment_low_FP
    into.moment_high_FP[:] += other.moment_high_FP + carry_FP


def groups(settings: CollectSettings) -> Iterator[tuple[int, int]]:
    """First and last slot (behind it) of each group: top, uniform, then the intervals'."""
    yield 0, settings.top
    yield settings.top, settings.first_interval
    for start in range(settings.first_interval, settings.slots, settings.per_interval):
        yield start, start + settings.per_interval


def _merge_examples(into: Collected, other: Collected, start: int, stop: int) -> None:
    settings = into.settings
    mine, others = slots_of(into, start, stop), slots_of(other, start, stop)
    for slots in (mine, others):
        drop_low_intervals(slots, into.max_F[start:stop], settings)
    for first, last in groups(settings):
        both = mine.columns(first, last).joined(others.columns(first, last))
        best = _best_first(both, settings, by_magnitude=first == 0).columns(0, last - first)
        for target, source in zip(mine.columns(first, last).arrays, best.arrays, strict=True):
            target[:] = source


def _best_first(slots: Slots, settings: CollectSettings, *, by_magnitude: bool) -> Slots:
    if by_magnitude:
        return slots.ordered(np.lexsort((slots.places(), slots.magnitudes()), axis=1))
    return slots.ordered(np.argsort(slots.keys(settings.seed), axis=1))


def drop_low_intervals(
    slots: Slots, max_C: npt.NDArray[np.float32], settings: CollectSettings
) -> None:
    """Empty the slots of intervals that lie too far below the maximum of their feature. What they
    held could not come back: the maximum only grows."""
    low = settings.lowest_exponent
    lowest_C = octave_of(max_C, low) - settings.intervals + 1
    intervals = slots.columns(settings.first_interval, settings.slots)
    gone = octave_of(intervals.value_CS, low) < lowest_C[:, None]
    for array in intervals.arrays:
        array[gone] = 0
    intervals.position_CS[gone] = -1


def _merge_tokens(into: Collected, other: Collected, part: slice) -> None:
    feature = np.concatenate([into.token_feature_VR[part], other.token_feature_VR[part]], axis=1)
    score = np.concatenate([into.token_score_VR[part], other.token_score_VR[part]], axis=1)
    feature, score = best_features(feature, score, into.settings.token_features)
    into.token_feature_VR[part], into.token_score_VR[part] = feature, score


def best_features(
    feature: npt.NDArray[np.int32], score: npt.NDArray[np.float32], count: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The `count` features of largest score in each row, each once with its largest; equal ones
    by number; -1 and 0 behind them."""
    order = np.lexsort((-score, feature), axis=1)
    feature, score = np.take_along_axis(feature, order, 1), np.take_along_axis(score, order, 1)
    again = np.zeros(feature.shape, np.bool_)
    again[:, 1:] = feature[:, 1:] == feature[:, :-1]
    feature, score = np.where(again, -1, feature), np.where(again, 0, score)
    order = np.lexsort((feature, -score, feature < 0), axis=1)[:, :count]
    feature, score = np.take_along_axis(feature, order, 1), np.take_along_axis(score, order, 1)
    return feature.astype(np.int32), score.astype(np.float32)
