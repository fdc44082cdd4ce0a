"""The pass over one block, compiled: state is streamed feature by feature, and an example is
written only where its key beats the worst that is kept. `reference` says the same in numpy.

Shape suffixes as in `state` and `blocks`; G groups of slots, K entries of one feature.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from saeserve.core.features.blocks import Block
from saeserve.core.features.keys import FIRST, GOLDEN, SECOND, seed_key
from saeserve.core.features.state import FRACTION_BITS, Collected
from saeserve.core.kernels.compiled import Array, helper
from saeserve.core.kernels.csr import Csr
from saeserve.core.kernels.sort import by_latent
from saeserve.core.moving import moved

_QUARTERS = tuple(int(np.ceil(np.ldexp(2.0 ** (quarter / 4) - 1, 23))) for quarter in (1, 2, 3))
"""Mantissas from which on a float32 lies in the second, third and fourth part of its octave."""
_Q1, _Q2, _Q3 = _QUARTERS
_GOLDEN, _FIRST, _SECOND = np.uint64(GOLDEN), np.uint64(FIRST), np.uint64(SECOND)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_NONE = np.uint64(0xFFFFFFFFFFFFFFFF)
_UNITS = tuple(float(2**bits) for bits in FRACTION_BITS)
_U1, _U2, _U3, _U4 = _UNITS
_WORD = float(2**64)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_OCTAVES = 16
_BINS = 64


def add_block(state: Collected, block: Block, weight_F: npt.NDArray[np.float32]) -> None:
    """Add a block, whose values are finite and not 0, to the state. `weight_F` scales the
    activations of features for the token index."""
    settings = state.settings
    if settings.vocabulary:
        _add_tokens(
            block.offset_B1, block.latent_N, block.value_N, block.token_B, weight_F,
            state.token_count_V, state.token_feature_VR, state.token_score_VR,
        )  # fmt: skip
    entries = Csr(*map(torch.from_numpy, (block.offset_B1, block.latent_N, block.value_N)))
    sorted_ = by_latent(entries, settings.d_sae)
    starts, rows, values = sorted_.starts.numpy(), sorted_.rows.numpy(), sorted_.values.numpy()
    bits = values.view(np.int32)
    _add_figures(
        starts, values, bits, settings.lowest_exponent, state.count_F, state.max_F,
        state.histogram_FB, state.moment_high_FP, state.moment_low_FP,
    )  # fmt: skip
    sizes = np.asarray(
        [settings.top, settings.uniform, settings.intervals, settings.per_interval,
         settings.window, settings.entries, settings.lowest_exponent], np.int64
    )  # fmt: skip
    _add_examples(
        starts, rows, values, bits, block.position_B, block.sequence_B, block.bound_Q2, state.max_F.view(np.int32), seed_key(settings.seed), sizes, state.position_FS,
        state.value_FS, state.value_FS.view(np.int32), state.left_FS,
        state.right_FS, state.used_FS, state.offset_FSE, state.activation_FSE,
    )  # fmt: skip
    moved()  # the first block may have compiled for a minute


@helper
def _mix(z: np.uint64) -> np.uint64:
    """SplitMix64's finaliser, as `keys.mixed`."""
    z = z + _GOLDEN
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    return z ^ (z >> _S31)


@helper
def _bin(bits: int, lowest: int) -> int:
    """The histogram's bin of a float32 by its bits, sign left out."""
    mantissa = bits & 0x7FFFFF
    quarter = int(mantissa >= _Q1) + int(mantissa >= _Q2) + int(mantissa >= _Q3)
    at = (((bits >> 23) & 0xFF) - 127 - lowest) * 4 + quarter
    return min(max(at, 0), _BINS - 1)


@helper
def _add_figures(
    starts_F1: Array, value_N: Array, bits_N: Array, lowest: int, count_F: Array, max_F: Array,
    histogram_FB: Array, high_FP: Array, low_FP: Array,
) -> None:  # fmt: skip
    """Counts, maxima, histograms and moments."""
    scale = 2.0**-lowest
    power = np.empty(4, np.float64)
    # Each feature's figures are read and written once a block.
    for f in range(starts_F1.size - 1):
        largest = max_F[f]
        # Its firings stand together.
        for n in range(starts_F1[f], starts_F1[f + 1]):
            a = np.float64(abs(value_N[n]))
            largest = max(largest, abs(value_N[n]))
            histogram_FB[f, _bin(bits_N[n], lowest)] += 1
            x = a * scale
            power[0], power[1], power[2] = x * _U1, x * x * _U2, x * x * x * _U3
            power[3] = x * x * (x * x) * _U4
            # One sum of 128 bits a power.
            for p in range(4):
                _accumulate(high_FP, low_FP, f, p, power[p], value_N[n] < 0 and p % 2 == 0)
        max_F[f] = largest
        count_F[f] += starts_F1[f + 1] - starts_F1[f]


@helper
def _accumulate(
    high_FP: Array, low_FP: Array, f: int, p: int, amount: float, negative: bool
) -> None:
    """Add a whole number below 2^120 to a sum of 128 bits, or take it off."""
    whole = np.rint(amount)
    above = np.floor(whole / _WORD)
    high, low = np.int64(above), np.uint64(whole - above * _WORD)
    if negative:
        # Two's complement.
        high, low = -high - np.int64(low != _ZERO), _ZERO - low
    total = low_FP[f, p] + low
    low_FP[f, p] = total
    high_FP[f, p] += high + np.int64(total < low)


@helper
def _octave(bits: int, lowest: int) -> int:
    """Exponent of the power of two below a magnitude, by its bits, held within the histogram."""
    return min(max(((bits >> 23) & 0xFF) - 127, lowest), lowest + _OCTAVES - 1)


@helper
def _worst_key(
    position_S: Array, first: int, last: int, feature_key: np.uint64
) -> tuple[int, np.uint64]:
    """The slot of largest key, and its key; an empty slot comes before all."""
    slot, worst = first, _ZERO
    # A group is a few slots.
    for s in range(first, last):
        if position_S[s] < 0:
            return s, _NONE
        key = _mix(feature_key ^ np.uint64(position_S[s]))
        if key >= worst:
            slot, worst = s, key
    return slot, worst


@helper
def _worst_top(position_S: Array, value_S: Array, last: int) -> int:
    """The slot of smallest magnitude, of equal ones the latest; an empty slot before all."""
    worst = 0
    # A group is a few slots.
    for s in range(last):
        if position_S[s] < 0:
            return s
        here, there = abs(value_S[s]), abs(value_S[worst])
        if here < there or (here == there and position_S[s] > position_S[worst]):
            worst = s
    return worst


@helper
def _write(
    n: int, first: int, last: int, slot: int, row_N: Array, value_N: Array, position_B: Array,
    sequence_B: Array, bound_Q2: Array, window: int, position_S: Array, value_S: Array,
    left_S: Array, right_S: Array, used_S: Array, offset_SE: Array, activation_SE: Array,
) -> None:  # fmt: skip
    """Put firing n into a slot, with the feature's firings around it, nearest first."""
    row = row_N[n]
    place, sequence = position_B[row], sequence_B[row]
    left = min(window, place - bound_Q2[sequence, 0])
    right = min(window, bound_Q2[sequence, 1] - 1 - place)
    offset_SE[slot, :], activation_SE[slot, :] = 0, 0
    activation_SE[slot, 0] = value_N[n]
    used, before, after = 1, n - 1, n + 1
    # Goes outwards to both sides.
    while True:
        back, ahead = window + 1, window + 1
        if before >= first and sequence_B[row_N[before]] == sequence:
            back = min(place - position_B[row_N[before]], window + 1)
        if after < last and sequence_B[row_N[after]] == sequence:
            ahead = min(position_B[row_N[after]] - place, window + 1)
        if back > window and ahead > window:
            break
        if used == offset_SE.shape[1]:
            # No room: the window ends before the first firing that it cannot hold.
            left, right = min(left, back - 1), min(right, ahead - 1)
            break
        if back <= ahead:
            offset_SE[slot, used], activation_SE[slot, used] = -back, value_N[before]
            before -= 1
        else:
            offset_SE[slot, used], activation_SE[slot, used] = ahead, value_N[after]
            after += 1
        used += 1
    position_S[slot], value_S[slot] = place, value_N[n]
    left_S[slot], right_S[slot], used_S[slot] = left, right, used


@helper
def _add_examples(
    starts_F1: Array, row_N: Array, value_N: Array, bits_N: Array, position_B: Array,
    sequence_B: Array, bound_Q2: Array, max_bits_F: Array, seed: np.uint64, sizes: Array,
    position_FS: Array, value_FS: Array, bits_FS: Array, left_FS: Array, right_FS: Array, used_FS: Array, offset_FSE: Array,
    activation_FSE: Array,
) -> None:  # fmt: skip
    """Offer every firing to the groups of its feature; the maxima include the block."""
    top, uniform, intervals, per = sizes[0], sizes[1], sizes[2], sizes[3]
    window, lowest = sizes[4], sizes[6]
    behind = top + uniform
    slot_G, worst_G = np.empty(intervals, np.int64), np.empty(intervals, np.uint64)
    # Each feature's examples are read once a block.
    for f in range(starts_F1.size - 1):
        first, last = starts_F1[f], starts_F1[f + 1]
        if first == last:
            continue
        position_S, value_S = position_FS[f], value_FS[f]
        left_S, right_S, used_S = left_FS[f], right_FS[f], used_FS[f]
        offset_SE, activation_SE = offset_FSE[f], activation_FSE[f]
        feature_key = _mix(np.uint64(f) ^ seed)
        bottom = _octave(max_bits_F[f], lowest) - intervals + 1
        # Intervals that the maximum has left behind are emptied.
        for s in range(behind, behind + intervals * per):
            if position_S[s] >= 0 and _octave(bits_FS[f, s], lowest) < bottom:
                position_S[s], value_S[s], used_S[s] = -1, 0, 0
                left_S[s], right_S[s] = 0, 0
                offset_SE[s, :], activation_SE[s, :] = 0, 0
        worst_top = _worst_top(position_S, value_S, top)
        slot, worst = _worst_key(position_S, top, behind, feature_key)
        # The worst of each interval is known before its first firing.
        for g in range(intervals):
            start = behind + g * per
            slot_G[g], worst_G[g] = _worst_key(position_S, start, start + per, feature_key)
        best = first
        # Each firing is offered to all groups.
        for n in range(first, last):
            row = row_N[n]
            if abs(value_N[n]) > abs(value_N[best]):
                best = n
            key = _mix(feature_key ^ np.uint64(position_B[row]))
            if key < worst:
                _write(
                    n, first, last, slot, row_N, value_N, position_B, sequence_B, bound_Q2, window,
                    position_S, value_S, left_S, right_S, used_S, offset_SE, activation_SE,
                )  # fmt: skip
                slot, worst = _worst_key(position_S, top, behind, feature_key)
            octave = _octave(bits_N[n], lowest)
            if octave >= bottom:
                g = (octave - lowest) % intervals
                if key < worst_G[g]:
                    _write(
                        n, first, last, slot_G[g], row_N, value_N, position_B, sequence_B, bound_Q2,
                        window, position_S, value_S, left_S, right_S, used_S, offset_SE,
                        activation_SE,
                    )  # fmt: skip
                    start = behind + g * per
                    slot_G[g], worst_G[g] = _worst_key(position_S, start, start + per, feature_key)
            # The last firing of its sequence: the largest of them is offered to the top.
            if n + 1 == last or sequence_B[row_N[n + 1]] != sequence_B[row]:
                here, there = abs(value_N[best]), abs(value_S[worst_top])
                place = position_B[row_N[best]]
                if (
                    position_S[worst_top] < 0
                    or here > there
                    or (here == there and place < position_S[worst_top])
                ):
                    _write(
                        best, first, last, worst_top, row_N, value_N, position_B, sequence_B,
                        bound_Q2, window, position_S, value_S, left_S, right_S, used_S, offset_SE,
                        activation_SE,
                    )  # fmt: skip
                    worst_top = _worst_top(position_S, value_S, top)
                best = n + 1


@helper
def _worst_feature(feature_R: Array, score_R: Array) -> int:
    """The place of smallest score, of equal ones the largest feature; an empty one before all."""
    worst = 0
    # A token keeps a few features.
    for r in range(feature_R.size):
        if feature_R[r] < 0:
            return r
        here, there = score_R[r], score_R[worst]
        if here < there or (here == there and feature_R[r] > feature_R[worst]):
            worst = r
    return worst


@helper
def _add_tokens(
    offset_B1: Array, latent_N: Array, value_N: Array, token_B: Array, weight_F: Array,
    count_V: Array, feature_VR: Array, score_VR: Array,
) -> None:  # fmt: skip
    """Keep the features of largest weighted activation of each token."""
    # Rows are taken as they come: a token's features are few.
    for row in range(token_B.size):
        token = token_B[row]
        if token < 0 or token >= count_V.size:
            continue
        count_V[token] += 1
        feature_R, score_R = feature_VR[token], score_VR[token]
        worst = _worst_feature(feature_R, score_R)
        # Most firings end at the first comparison.
        for n in range(offset_B1[row], offset_B1[row + 1]):
            f = latent_N[n]
            score = abs(value_N[n]) * weight_F[f]
            if feature_R[worst] >= 0 and score < score_R[worst]:
                continue
            at = -1
            # Is the feature kept already?
            for r in range(feature_R.size):
                if feature_R[r] == f:
                    at = r
            better = feature_R[worst] < 0 or score > score_R[worst] or f < feature_R[worst]
            if at < 0 and not better:
                continue
            if at < 0:
                feature_R[worst], score_R[worst] = f, score
            elif score > score_R[at]:
                score_R[at] = score
            else:
                continue
            worst = _worst_feature(feature_R, score_R)
