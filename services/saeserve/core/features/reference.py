"""The pass over one block, in numpy: a state of the block alone, merged into the whole. `loops`
does the same faster; tests hold the two equal, bit by bit.

Shape suffixes as in `state` and `blocks`; here the N entries are sorted by feature and row, and M
are some of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeserve.core.features.blocks import Block
from saeserve.core.features.canonical import octave_of
from saeserve.core.features.keys import keys_of
from saeserve.core.features.merging import merge
from saeserve.core.features.state import (
    BINS,
    BINS_PER_OCTAVE,
    FRACTION_BITS,
    Collected,
    CollectSettings,
    new_state,
)

_QUARTERS = np.ldexp(np.exp2(np.arange(1, 4) / 4), -1)
"""Parts of an octave, as frexp's mantissas in [1/2, 1)."""
_HALF = np.uint64(0xFFFFFFFF)
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Entries:
    """The firings of a block, sorted by feature and row."""

    feature_N: _Ints
    value_N: npt.NDArray[np.float32]
    position_N: _Ints
    sequence_N: _Ints
    token_N: _Ints
    first_N: _Ints
    last_N: _Ints
    """Bounds of the firing's sequence in the token file."""


def add_block(state: Collected, block: Block, weight_F: npt.NDArray[np.float32]) -> None:
    """Add a block, whose values are finite and not 0, to the state. `weight_F` scales the
    activations of features for the token index."""
    entries = _sorted(block)
    part = new_state(state.settings)
    _add_figures(part, entries)
    _add_examples(part, entries)
    if state.settings.vocabulary:
        _add_tokens(part, block, entries, weight_F)
    merge(state, part)


def _sorted(block: Block) -> _Entries:
    row_N = np.repeat(np.arange(block.rows), np.diff(block.offset_B1))
    order = np.lexsort((row_N, block.latent_N))
    row_N = row_N[order]
    bound_N2 = block.bound_Q2[block.sequence_B[row_N]]
    return _Entries(
        block.latent_N[order].astype(np.int64),
        block.value_N[order],
        block.position_B[row_N],
        block.sequence_B[row_N],
        block.token_B[row_N].astype(np.int64),
        bound_N2[:, 0],
        bound_N2[:, 1],
    )


def _add_figures(part: Collected, entries: _Entries) -> None:
    feature_N, size_N = entries.feature_N, np.abs(entries.value_N)
    part.count_F[:] = np.bincount(feature_N, minlength=part.settings.d_sae)
    np.maximum.at(part.max_F, feature_N, size_N)
    mantissa_N, exponent_N = np.frexp(size_N.astype(np.float64))
    octave_N = exponent_N - 1 - part.settings.lowest_exponent
    bin_N = octave_N * BINS_PER_OCTAVE + np.searchsorted(_QUARTERS, mantissa_N, "right")
    np.add.at(part.histogram_FB, (feature_N, np.clip(bin_N, 0, BINS - 1)), 1)
    x_N = np.ldexp(size_N.astype(np.float64), -part.settings.lowest_exponent)
    powers = (x_N, x_N * x_N, x_N * x_N * x_N, x_N * x_N * (x_N * x_N))
    for p, (power_N, bits) in enumerate(zip(powers, FRACTION_BITS, strict=True)):
        negative_N = (entries.value_N < 0) & (p % 2 == 0)
        _sum_exactly(part, p, feature_N, np.rint(np.ldexp(power_N, bits)), negative_N)


def _sum_exactly(
    part: Collected,
    p: int,
    feature_N: _Ints,
    whole_N: npt.NDArray[np.float64],
    negative_N: npt.NDArray[np.bool_],
) -> None:
    """Sum whole numbers in two's complement of 128 bits, in words of 32 bits."""
    above_N = np.floor(np.ldexp(whole_N, -64))
    high_N = above_N.astype(np.int64)
    low_N = (whole_N - np.ldexp(above_N, 64)).astype(np.uint64)
    high_N = np.where(negative_N, -high_N - (low_N != 0), high_N)
    low_N = np.where(negative_N, np.uint64(0) - low_N, low_N)
    small_F, large_F = np.zeros((2, part.settings.d_sae), np.uint64)
    np.add.at(small_F, feature_N, low_N & _HALF)
    np.add.at(large_F, feature_N, low_N >> np.uint64(32))
    large_F += small_F >> np.uint64(32)
    part.moment_low_FP[:, p] = (large_F << np.uint64(32)) | (small_F & _HALF)
    part.moment_high_FP[:, p] = (large_F >> np.uint64(32)).astype(np.int64)
    np.add.at(part.moment_high_FP[:, p], feature_N, high_N)


def _add_examples(part: Collected, entries: _Entries) -> None:
    settings = part.settings
    key_N = keys_of(settings.seed, entries.feature_N, entries.position_N)
    top_M = _largest_of_sequences(entries)
    size_M = -np.abs(entries.value_N[top_M])
    _keep(part, entries, top_M[np.lexsort((size_M, entries.feature_N[top_M]))], 0, settings.top)
    by_key_N = np.lexsort((key_N, entries.feature_N))
    _keep(part, entries, by_key_N, settings.top, settings.uniform)
    octave_N = octave_of(entries.value_N, settings.lowest_exponent)
    highest_N = octave_of(part.max_F, settings.lowest_exponent)[entries.feature_N]
    ring_N = (octave_N - settings.lowest_exponent) % settings.intervals
    # Each interval has slots of its own; what lies below all of them is not kept.
    for ring in range(settings.intervals):
        drawn_N = (ring_N == ring) & (octave_N > highest_N - settings.intervals)
        first = settings.first_interval + ring * settings.per_interval
        _keep(part, entries, by_key_N[drawn_N[by_key_N]], first, settings.per_interval)


def _largest_of_sequences(entries: _Entries) -> npt.NDArray[np.intp]:
    """The firing of largest magnitude of each feature in each sequence, of equal ones the first."""
    order = np.lexsort((-np.abs(entries.value_N), entries.sequence_N, entries.feature_N))
    pairs = np.stack([entries.feature_N[order], entries.sequence_N[order]])
    new = np.ones(len(order), np.bool_)
    new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(0)
    return order[new]


def _keep(
    part: Collected, entries: _Entries, best_M: npt.NDArray[np.intp], first: int, count: int
) -> None:
    """Put the first `count` of each feature into its slots from `first` on; `best_M` is sorted by
    feature, best first."""
    feature_M = entries.feature_N[best_M]
    rank_M = np.arange(len(best_M)) - np.searchsorted(feature_M, feature_M)
    kept_M = best_M[rank_M < count]
    at = (feature_M[rank_M < count], first + rank_M[rank_M < count])
    part.position_FS[at], part.value_FS[at] = entries.position_N[kept_M], entries.value_N[kept_M]
    windows = _windows(part.settings, entries, kept_M)
    names = ("left_FS", "right_FS", "used_FS", "offset_FSE", "activation_FSE")
    for name, values in zip(names, windows, strict=True):
        getattr(part, name)[at] = values


def _windows(
    settings: CollectSettings, entries: _Entries, kept_M: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.generic], ...]:
    """left, right and used [M], offset and activation [M, E] of the windows around firings."""
    room, far = settings.entries, settings.window + 1
    # Nearest first, before the firing earlier than behind it; one more than there is room for.
    shift = np.arange(-room, room + 1)
    near = np.clip(kept_M[:, None] + shift, 0, len(entries.feature_N) - 1)
    distance = entries.position_N[near] - entries.position_N[kept_M][:, None]
    outside = np.abs(distance) > settings.window
    for name in ("feature_N", "sequence_N"):
        column = getattr(entries, name)
        outside |= column[near] != column[kept_M][:, None]
    outside |= near != kept_M[:, None] + shift
    steps = np.where(outside, far, np.abs(distance))
    order = np.argsort(2 * steps + (distance > 0), axis=1, kind="stable")
    steps, signed, value = (
        np.take_along_axis(a, order, 1) for a in (steps, distance, entries.value_N[near])
    )
    used_M = np.minimum((steps < far).sum(1), room)
    left_M = np.minimum(entries.position_N[kept_M] - entries.first_N[kept_M], settings.window)
    right_M = np.minimum(entries.last_N[kept_M] - 1 - entries.position_N[kept_M], settings.window)
    for sign, side_M in ((-1, left_M), (1, right_M)):
        # The window ends before the first firing on this side that it has no room for.
        cut = np.where(np.sign(signed[:, room:]) == sign, steps[:, room:], far).min(1)
        np.minimum(side_M, cut - 1, out=side_M)
    used = np.arange(room) < used_M[:, None]
    offset = np.where(used, signed[:, :room], 0)
    return left_M, right_M, used_M, offset, np.where(used, value[:, :room], 0)


def _add_tokens(
    part: Collected, block: Block, entries: _Entries, weight_F: npt.NDArray[np.float32]
) -> None:
    settings = part.settings
    known = block.token_B[(block.token_B >= 0) & (block.token_B < settings.vocabulary)]
    part.token_count_V[:] = np.bincount(known, minlength=settings.vocabulary)
    score_N = np.abs(entries.value_N) * weight_F[entries.feature_N]
    order = np.lexsort((-score_N, entries.feature_N, entries.token_N))
    pairs = np.stack([entries.token_N[order], entries.feature_N[order]])
    new = np.ones(len(order), np.bool_)
    new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(0)
    new &= (pairs[0] >= 0) & (pairs[0] < settings.vocabulary)
    best = order[new]
    best = best[np.lexsort((entries.feature_N[best], -score_N[best], entries.token_N[best]))]
    token = entries.token_N[best]
    rank = np.arange(len(best)) - np.searchsorted(token, token)
    kept = rank < settings.token_features
    at = (token[kept], rank[kept])
    part.token_feature_VR[at] = entries.feature_N[best][kept]
    part.token_score_VR[at] = score_N[best][kept]
