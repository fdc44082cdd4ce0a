"""Numbers that depend on the data, as they are expected: for counting work, never for computing."""

from __future__ import annotations

import math

from saeserve.core.kernels.rounding import SUM_UNIT

DEVIATIONS = 6
"""So many standard deviations at most rounding is likely to cost."""
BLOCK = 8
"""Products that tensor cores add to a running sum at a time, at least (Fasi et al. 2021, Numerical
behavior of NVIDIA tensor cores: 8 on Ampere, 16 on Hopper)."""
UNIT = 2**-11
"""What rounding to float16 changes at most, as a share of the number."""
TYPICAL = 1.0 * UNIT
"""One standard deviation of what rounding one factor costs a product, as `rows.likely_errors` has
it for rows of normal numbers, as a share of the products' own deviation."""


def candidates(k: int, latents: int, width: int, depth: int) -> int:
    """Entries of a row that reach the cut of `choice`, from groups of `width` columns; `depth` is
    the width of the rows that were multiplied in low precision, 0 where entries are exact.

    For rows and weights of independent normal numbers h is normal with some deviation s, and
    |x| |w| = sqrt(d) s. The number of entries above a level z s, with z = sqrt(2 ln(m / k)), grows
    as exp(z t) when the level falls by t s, here by the rounding of h and twice the bound of
    `rows.likely_errors`. Two of the k largest in one group lower the level too.
    """
    shared = k * k * width / (2 * latents)
    return math.ceil((k + shared) * math.exp(_fall(k, latents, depth)))


def uncertain(k: int, latents: int, width: int, depth: int) -> int:
    """Candidates whose place is open; as many levels above the k-th largest as the
    cut is below it, entries are surely chosen."""
    sure = math.floor(k * math.exp(-_fall(k, latents, depth)))
    return candidates(k, latents, width, depth) - sure


def _fall(k: int, latents: int, depth: int) -> float:
    """Logarithm of how many times as many entries reach the cut as reach the k-th largest."""
    if not depth:
        return 0.0
    spread = math.sqrt(2 * math.log(max(1.0, latents / k)))
    root = math.sqrt(depth)
    sums = 2 * (depth / BLOCK + DEVIATIONS * root + 8) * SUM_UNIT
    both = DEVIATIONS * math.sqrt(2) * TYPICAL
    return spread * (2 * (both + root * sums) + 2 * UNIT * spread)
