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
_ZERO = np.uint64(0)
_FAR = 1 << 40
_OCTAVES = 16


class Firings(NamedTuple):
    """Entries sorted by feature: those of f are at starts[f] .. starts[f + 1]."""

    starts_F1: Array
    row_N: Array
    value_N: Array
    bits_N: Array
    """The values' bits, as int32."""


class _Places(NamedTuple):
    """Where rows are, as in `Block`."""

    position_B: Array
    sequence_B: Array
    bound_Q2: Array


class _Examples(NamedTuple):
    """Arrays of `Collected`, and the values' bits."""

    position_FS: Array
    value_FS: Array
    bits_FS: Array
    left_FS: Array
    right_FS: Array
    used_FS: Array
    offset_FSE: Array
    activation_FSE: Array


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
    places = _Places(block.position_B, block.sequence_B, block.bound_Q2)
    sizes = _Sizes(*(getattr(state.settings, name) for name in _Sizes._fields))
    seed = seed_key(state.settings.seed)
    _add_examples(firings, places, state.max_F.view(np.int32), seed, sizes, _examples(state))


def _examples(state: Collected) -> _Examples:
    bits_FS = state.value_FS.view(np.int32)
    windows = (state.left_FS, state.right_FS, state.used_FS)
    entries = (state.offset_FSE, state.activation_FSE)
    return _Examples(state.position_FS, state.value_FS, bits_FS, *windows, *entries)


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
def _worst_key(
    examples: _Examples, f: int, first: int, last: int, feature_key: np.uint64
) -> tuple[int, np.uint64]:
    """The slot of largest key, and its key; an empty slot comes before all."""
    slot, worst = first, _ZERO
    # A group is a few slots.
    for s in range(first, last):
        place = examples.position_FS[f, s]
        if place < 0:
            return s, _NONE
        key = _mix(feature_key ^ np.uint64(place))
        if key >= worst:
            slot, worst = s, key
    return slot, worst


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
def _distance(firings: Firings, places: _Places, n: int, other: int, inside: bool) -> int:
    """Tokens between two firings of one sequence; a large number for others."""
    if not inside:
        return _FAR
    row, near = firings.row_N[n], firings.row_N[other]
    if places.sequence_B[near] != places.sequence_B[row]:
        return _FAR
    return int(abs(places.position_B[near] - places.position_B[row]))


@helper
def _write(
    firings: Firings,
    places: _Places,
    sizes: _Sizes,
    examples: _Examples,
    f: int,
    slot: int,
    n: int,
) -> None:
    """Put firing n into a slot, with the feature's firings around it, nearest first."""
    first, last, row = firings.starts_F1[f], firings.starts_F1[f + 1], firings.row_N[n]
    place, bound_2 = places.position_B[row], places.bound_Q2[places.sequence_B[row]]
    left = min(sizes.window, place - bound_2[0])
    right = min(sizes.window, bound_2[1] - 1 - place)
    # What the slot held before goes.
    for e in range(sizes.entries):
        examples.offset_FSE[f, slot, e], examples.activation_FSE[f, slot, e] = 0, 0
    examples.activation_FSE[f, slot, 0] = firings.value_N[n]
    used, before, after = 1, n - 1, n + 1
    # Goes outwards to both sides.
    while True:
        back = _distance(firings, places, n, before, before >= first)
        ahead = _distance(firings, places, n, after, after < last)
        if min(back, ahead) > sizes.window:
            break
        if used == sizes.entries:
            # No room: the window ends before the first firing that it cannot hold.
            left, right = min(left, back - 1), min(right, ahead - 1)
            break
        other = before if back <= ahead else after
        examples.offset_FSE[f, slot, used] = -back if back <= ahead else ahead
        examples.activation_FSE[f, slot, used] = firings.value_N[other]
        before -= int(back <= ahead)
        after += int(back > ahead)
        used += 1
    examples.position_FS[f, slot], examples.value_FS[f, slot] = place, firings.value_N[n]
    examples.left_FS[f, slot], examples.right_FS[f, slot] = left, right
    examples.used_FS[f, slot] = used


@helper
def _drop_low(examples: _Examples, f: int, first: int, last: int, bottom: int, lowest: int) -> None:
    """Empty the slots of intervals that the maximum has left behind."""
    # Slots of all intervals.
    for s in range(first, last):
        if examples.position_FS[f, s] >= 0 and _octave(examples.bits_FS[f, s], lowest) < bottom:
            examples.position_FS[f, s], examples.value_FS[f, s] = -1, 0
            examples.left_FS[f, s], examples.right_FS[f, s], examples.used_FS[f, s] = 0, 0, 0
            examples.offset_FSE[f, s, :], examples.activation_FSE[f, s, :] = 0, 0


@helper
def _add_drawn(
    firings: Firings, places: _Places, feature_key: np.uint64, sizes: _Sizes, bottom: int,
    examples: _Examples, f: int, slot_G: Array, worst_G: Array,
) -> None:  # fmt: skip
    """Offer the firings of a feature to the groups that are drawn by key: the first is uniform,
    the others are intervals."""
    behind, per = sizes.top + sizes.uniform, sizes.per_interval
    slot_G[0], worst_G[0] = _worst_key(examples, f, sizes.top, behind, feature_key)
    # The worst of each interval is known before its first firing.
    for g in range(1, slot_G.size):
        start = behind + (g - 1) * per
        slot_G[g], worst_G[g] = _worst_key(examples, f, start, start + per, feature_key)
    # Most firings end at the two comparisons.
    for n in range(firings.starts_F1[f], firings.starts_F1[f + 1]):
        key = _mix(feature_key ^ np.uint64(places.position_B[firings.row_N[n]]))
        if key < worst_G[0]:
            _write(firings, places, sizes, examples, f, slot_G[0], n)
            slot_G[0], worst_G[0] = _worst_key(examples, f, sizes.top, behind, feature_key)
        octave = _octave(firings.bits_N[n], sizes.lowest_exponent)
        g = 1 + (octave - sizes.lowest_exponent) % sizes.intervals
        if octave >= bottom and key < worst_G[g]:
            _write(firings, places, sizes, examples, f, slot_G[g], n)
            start = behind + (g - 1) * per
            slot_G[g], worst_G[g] = _worst_key(examples, f, start, start + per, feature_key)


@helper
def _add_top(firings: Firings, places: _Places, sizes: _Sizes, examples: _Examples, f: int) -> None:
    """Offer the largest firing of a feature in each sequence to its top."""
    best, last = firings.starts_F1[f], firings.starts_F1[f + 1]
    worst = _worst_top(examples, f, sizes.top)
    # A sequence's firings stand together.
    for n in range(best, last):
        if abs(firings.value_N[n]) > abs(firings.value_N[best]):
            best = n
        sequence = places.sequence_B[firings.row_N[n]]
        if n + 1 < last and places.sequence_B[firings.row_N[n + 1]] == sequence:
            continue
        here, there = abs(firings.value_N[best]), abs(examples.value_FS[f, worst])
        held = examples.position_FS[f, worst]
        earlier = places.position_B[firings.row_N[best]] < held
        if held < 0 or here > there or (here == there and earlier):
            _write(firings, places, sizes, examples, f, worst, best)
            worst = _worst_top(examples, f, sizes.top)
        best = n + 1


@helper
def _add_examples(
    firings: Firings, places: _Places, max_bits_F: Array, seed: np.uint64, sizes: _Sizes,
    examples: _Examples,
) -> None:  # fmt: skip
    """Offer every firing to the groups of its feature; the maxima include the block."""
    first = sizes.top + sizes.uniform
    last = first + sizes.intervals * sizes.per_interval
    groups = sizes.intervals + 1
    slot_G, worst_G = np.empty(groups, np.int64), np.empty(groups, np.uint64)
    # Each feature's examples are read once a block.
    for f in range(firings.starts_F1.size - 1):
        if firings.starts_F1[f] == firings.starts_F1[f + 1]:
            continue
        key = _mix(np.uint64(f) ^ seed)
        bottom = _octave(max_bits_F[f], sizes.lowest_exponent) - sizes.intervals + 1
        _drop_low(examples, f, first, last, bottom, sizes.lowest_exponent)
        _add_drawn(firings, places, key, sizes, bottom, examples, f, slot_G, worst_G)
        _add_top(firings, places, sizes, examples, f)
