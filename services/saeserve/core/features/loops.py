"""The pass over one block, compiled: state is streamed feature by feature, and an example is
written only where its key beats the worst that is kept. `reference` says the same in numpy.

Shape suffixes as in `state` and `blocks`; G groups of slots, K entries of one feature.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from saeserve.core.features.blocks import Block
from saeserve.core.features.example_loops import Firings, add_examples
from saeserve.core.features.state import FRACTION_BITS, Collected
from saeserve.core.kernels.compiled import Array, helper
from saeserve.core.kernels.csr import Csr
from saeserve.core.kernels.sort import by_latent
from saeserve.core.moving import moved

_QUARTERS = tuple(int(np.ceil(np.ldexp(2.0 ** (quarter / 4) - 1, 23))) for quarter in (1, 2, 3))
"""Mantissas from which on a float32 lies in the second, third and fourth part of its octave."""
_Q1, _Q2, _Q3 = _QUARTERS
_UNITS = tuple(float(2**bits) for bits in FRACTION_BITS)
_U1, _U2, _U3, _U4 = _UNITS
_WORD = float(2**64)
_ZERO = np.uint64(0)
_BINS = 64


def add_block(state: Collected, block: Block, weight_F: npt.NDArray[np.float32]) -> None:
    """Add a block, whose values are finite and not 0, to the state. `weight_F` scales the
    activations of features for the token index."""
    settings = state.settings
    if settings.vocabulary:
        entries = (block.offset_B1, block.latent_N, block.value_N)
        kept = (state.token_count_V, state.token_feature_VR, state.token_score_VR)
        _add_tokens(*entries, block.token_B, weight_F, *kept)
    firings = _sorted(block, settings.d_sae)
    figures = (state.histogram_FB, state.moment_high_FP, state.moment_low_FP)
    _add_figures(firings, settings.lowest_exponent, state.count_F, state.max_F, *figures)
    add_examples(state, block, firings)
    moved()  # the first block may have compiled for a minute


def _sorted(block: Block, d_sae: int) -> Firings:
    arrays = (block.offset_B1, block.latent_N, block.value_N)
    offsets, latents, values_N = (torch.as_tensor(array) for array in arrays)
    found = by_latent(Csr(offsets, latents, values_N), d_sae)
    values, rows = found.values.numpy(), found.rows.numpy()
    places = block.position_B[rows]
    return Firings(found.starts.numpy(), rows, values, values.view(np.int32), places)


@helper
def _bin(bits: int, lowest: int) -> int:
    """The histogram's bin of a float32 by its bits, sign left out."""
    mantissa = bits & 0x7FFFFF
    quarter = int(mantissa >= _Q1) + int(mantissa >= _Q2) + int(mantissa >= _Q3)
    at = (((bits >> 23) & 0xFF) - 127 - lowest) * 4 + quarter
    return min(max(at, 0), _BINS - 1)


@helper
def _add_figures(
    firings: Firings, lowest: int, count_F: Array, max_F: Array, histogram_FB: Array,
    high_FP: Array, low_FP: Array,
) -> None:  # fmt: skip
    """Counts, maxima, histograms and moments."""
    starts_F1, value_N = firings.starts_F1, firings.value_N
    scale = 2.0**-lowest
    power = np.empty(4, np.float64)
    # Each feature's figures are read and written once a block.
    for f in range(starts_F1.size - 1):
        largest = max_F[f]
        # Its firings stand together.
        for n in range(starts_F1[f], starts_F1[f + 1]):
            a = np.float64(abs(value_N[n]))
            largest = max(largest, abs(value_N[n]))
            histogram_FB[f, _bin(firings.bits_N[n], lowest)] += 1
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
