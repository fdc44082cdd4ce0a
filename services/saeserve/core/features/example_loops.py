"""The part of the compiled pass that chooses examples: a slot is written only where a firing beats
the worst that its group keeps. All loops of this part are in this file, since numba looks at a
function's own file to know whether its machine code is of today.

Shape suffixes as in `state` and `blocks`; G groups of slots that are drawn by key.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from saeserve.core.features.blocks import Block
from saeserve.core.features.keys import FIRST, GOLDEN, SECOND, seed_key
from saeserve.core.features.state import Collected
from saeserve.core.kernels.compiled import Array, helper

_GOLDEN, _FIRST, _SECOND = np.uint64(GOLDEN), np.uint64(FIRST), np.uint64(SECOND)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_NONE = np.uint64(0xFFFFFFFFFFFFFFFF)
_FAR = 1 << 40
_OCTAVES = 16


class Firings(NamedTuple):
    """Entries sorted by feature: those of f are at starts[f] .. starts[f + 1]."""

    starts_F1: Array
    row_N: Array
    value_N: Array
    bits_N: Array
    """The values' bits, as int32."""
    place_N: Array
    """Places in the token file, which rise within a feature."""


class _Sequences(NamedTuple):
    """Where sequences are, as in `Block`."""

    sequence_B: Array
    bound_Q2: Array


class _Examples(NamedTuple):
    """Arrays of `Collected`: values with their bits, windows as words of 32 bits."""

    position_FS: Array
    value_FS: Array
    bits_FS: Array
    window_FSW: Array


class _Window(NamedTuple):
    """The window of one firing as it will be written: words of 32 bits, and its fields in them. A
    slot gets it in a few wide stores: it is seldom in the cache, and many narrow ones would wait
    for each slot's line in turn."""

    word_W: Array
    side_3: Array
    """left, right and used."""
    offset_E: Array
    activation_E: Array


class _Sizes(NamedTuple):
    """Sizes of `CollectSettings` that the loops need."""

    top: int
    uniform: int
    intervals: int
    per_interval: int
    window: int
    entries: int
    lowest_exponent: int


def add_examples(state: Collected, block: Block, firings: Firings) -> None:
    """Offer every firing of a block to the groups of its feature; `max_F` includes the block."""
    # Half as large, it stays closer to the processor.
    sequences = _Sequences(block.sequence_B.astype(np.int32), block.bound_Q2)
    sizes = _Sizes(*(getattr(state.settings, name) for name in _Sizes._fields))
    seed = seed_key(state.settings.seed)
    key_S, window = np.empty(state.settings.slots, np.uint64), _window(state)
    maxima = state.max_F.view(np.int32)
    _add_examples(firings, sequences, maxima, seed, sizes, _examples(state), key_S, window)


def _examples(state: Collected) -> _Examples:
    words = state.windows_FS.view(np.int32).reshape(*state.windows_FS.shape, -1)
    return _Examples(state.position_FS, state.value_FS, state.value_FS.view(np.int32), words)


def _window(state: Collected) -> _Window:
    record = np.zeros(1, state.windows_FS.dtype)
    sides = record.view(np.int8)[:3]
    return _Window(record.view(np.int32), sides, record["offset"][0], record["activation"][0])


@helper
def _mix(z: np.uint64) -> np.uint64:
    """SplitMix64's finaliser, as `keys.mixed`."""
    z = z + _GOLDEN
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    return z ^ (z >> _S31)


@helper
def _octave(bits: int, lowest: int) -> int:
    """Exponent of the power of two below a magnitude, by its bits, held within the histogram."""
    return min(max(((bits >> 23) & 0xFF) - 127, lowest), lowest + _OCTAVES - 1)


@helper
def _worst_key(key_S: Array, first: int, last: int) -> int:
    """The slot of largest key, of equal ones the first: an empty slot comes before all."""
    worst = first
    # A group is a few slots.
    for s in range(first + 1, last):
        if key_S[s] > key_S[worst]:
            worst = s
    return worst


@helper
def _worst_top(examples: _Examples, f: int, last: int) -> int:
    """The slot of smallest magnitude, of equal ones the latest; an empty slot before all."""
    worst = 0
    # A group is a few slots.
    for s in range(last):
        if examples.position_FS[f, s] < 0:
            return s
        here, there = abs(examples.value_FS[f, s]), abs(examples.value_FS[f, worst])
        later = examples.position_FS[f, s] > examples.position_FS[f, worst]
        if here < there or (here == there and later):
            worst = s
    return worst


@helper
def _look_around(
    firings: Firings, sequences: _Sequences, sizes: _Sizes, window: _Window, f: int, n: int
) -> None:
    """Fill in the window of firing n, with the feature's firings around it, nearest first."""
    first, last, place = firings.starts_F1[f], firings.starts_F1[f + 1], firings.place_N[n]
    sequence = sequences.sequence_B[firings.row_N[n]]
    start, end = sequences.bound_Q2[sequence, 0], sequences.bound_Q2[sequence, 1]
    left, right = min(sizes.window, place - start), min(sizes.window, end - 1 - place)
    # What was there of the firing before goes.
    for w in range(window.word_W.size):
        window.word_W[w] = 0
    window.activation_E[0] = firings.value_N[n]
    used, before, after = 1, n - 1, n + 1
    # Goes outwards to both sides.
    while True:
        back, ahead = _FAR, _FAR
        if before >= first and firings.place_N[before] >= start:
            back = place - firings.place_N[before]
        if after < last and firings.place_N[after] < end:
            ahead = firings.place_N[after] - place
        if min(back, ahead) > sizes.window:
            break
        if used == sizes.entries:
            # No room: the window ends before the first firing that it cannot hold.
            left, right = min(left, back - 1), min(right, ahead - 1)
            break
        other = before if back <= ahead else after
        window.offset_E[used] = -back if back <= ahead else ahead
        window.activation_E[used] = firings.value_N[other]
        before -= int(back <= ahead)
        after += int(back > ahead)
        used += 1
    window.side_3[0], window.side_3[1], window.side_3[2] = left, right, used


@helper
def _write(
    firings: Firings, examples: _Examples, window: _Window, f: int, slot: int, n: int
) -> None:
    """Put firing n with its window into a slot."""
    examples.position_FS[f, slot] = firings.place_N[n]
    examples.value_FS[f, slot] = firings.value_N[n]
    # One line of the cache.
    for w in range(window.word_W.size):
        examples.window_FSW[f, slot, w] = window.word_W[w]


@helper
def _drop_low(examples: _Examples, f: int, first: int, last: int, bottom: int, lowest: int) -> None:
    """Empty the slots of intervals that the maximum has left behind."""
    # Slots of all intervals.
    for s in range(first, last):
        if examples.position_FS[f, s] >= 0 and _octave(examples.bits_FS[f, s], lowest) < bottom:
            examples.position_FS[f, s], examples.value_FS[f, s] = -1, 0
            examples.window_FSW[f, s, :] = 0


@helper
def _find_keys(
    examples: _Examples, f: int, first: int, feature_key: np.uint64, key_S: Array
) -> None:
    """Keys of the examples that are drawn; the largest number for an empty slot."""
    # Slots behind the top.
    for s in range(first, key_S.size):
        place = examples.position_FS[f, s]
        key_S[s] = _NONE if place < 0 else _mix(feature_key ^ np.uint64(place))


@helper
def _add_drawn(
    firings: Firings, sequences: _Sequences, feature_key: np.uint64, sizes: _Sizes, bottom: int,
    examples: _Examples, f: int, key_S: Array, worst_G: Array, window: _Window,
) -> None:  # fmt: skip
    """Offer the firings of a feature to the groups that are drawn by key: the first is uniform,
    the others are intervals."""
    behind, per = sizes.top + sizes.uniform, sizes.per_interval
    _find_keys(examples, f, sizes.top, feature_key, key_S)
    worst_G[0] = _worst_key(key_S, sizes.top, behind)
    # The worst of each interval is known before its first firing.
    for g in range(1, worst_G.size):
        start = behind + (g - 1) * per
        worst_G[g] = _worst_key(key_S, start, start + per)
    # Most firings end at the two comparisons.
    for n in range(firings.starts_F1[f], firings.starts_F1[f + 1]):
        key = _mix(feature_key ^ np.uint64(firings.place_N[n]))
        octave = _octave(firings.bits_N[n], sizes.lowest_exponent)
        g = 1 + (octave - sizes.lowest_exponent) % sizes.intervals
        uniform, interval = worst_G[0], worst_G[g]
        drawn, also = key < key_S[uniform], octave >= bottom and key < key_S[interval]
        if not (drawn or also):
            continue
        _look_around(firings, sequences, sizes, window, f, n)
        if drawn:
            _write(firings, examples, window, f, uniform, n)
            key_S[uniform] = key
            worst_G[0] = _worst_key(key_S, sizes.top, behind)
        if also:
            _write(firings, examples, window, f, interval, n)
            key_S[interval] = key
            start = behind + (g - 1) * per
            worst_G[g] = _worst_key(key_S, start, start + per)


@helper
def _add_top(
    firings: Firings, sequences: _Sequences, sizes: _Sizes, examples: _Examples, f: int,
    window: _Window,
) -> None:  # fmt: skip
    """Offer the largest firing of a feature in each sequence to its top."""
    n, last = firings.starts_F1[f], firings.starts_F1[f + 1]
    worst = _worst_top(examples, f, sizes.top)
    # Most firings end at the comparison with the smallest that is kept.
    while n < last:
        here, there = abs(firings.value_N[n]), abs(examples.value_FS[f, worst])
        held = examples.position_FS[f, worst]
        if held >= 0 and (here < there or (here == there and firings.place_N[n] > held)):
            n += 1
            continue
        end = sequences.bound_Q2[sequences.sequence_B[firings.row_N[n]], 1]
        best = n
        # What came before it in its sequence was smaller: only what follows may be larger.
        while n < last and firings.place_N[n] < end:
            if abs(firings.value_N[n]) > abs(firings.value_N[best]):
                best = n
            n += 1
        _look_around(firings, sequences, sizes, window, f, best)
        _write(firings, examples, window, f, worst, best)
        worst = _worst_top(examples, f, sizes.top)


@helper
def _add_examples(
    firings: Firings, sequences: _Sequences, max_bits_F: Array, seed: np.uint64, sizes: _Sizes,
    examples: _Examples, key_S: Array, window: _Window,
) -> None:  # fmt: skip
    """Offer every firing to the groups of its feature; the maxima include the block."""
    first = sizes.top + sizes.uniform
    last = first + sizes.intervals * sizes.per_interval
    worst_G = np.empty(sizes.intervals + 1, np.int64)
    # Each feature's examples are read once a block.
    for f in range(firings.starts_F1.size - 1):
        if firings.starts_F1[f] == firings.starts_F1[f + 1]:
            continue
        key = _mix(np.uint64(f) ^ seed)
        bottom = _octave(max_bits_F[f], sizes.lowest_exponent) - sizes.intervals + 1
        _drop_low(examples, f, first, last, bottom, sizes.lowest_exponent)
        _add_drawn(firings, sequences, key, sizes, bottom, examples, f, key_S, worst_G, window)
        _add_top(firings, sequences, sizes, examples, f, window)
