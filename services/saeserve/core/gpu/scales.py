"""Powers of two that bring numbers into float16's range, without rounding: parts of kernels."""

from __future__ import annotations

import triton
from triton import language as tl


@triton.jit
def power_of_two(largest: tl.tensor, EXPONENT: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The power of two that brings a number into 2^EXPONENT .. 2^(EXPONENT + 1), and its inverse;
    1 where the number is 0 or not finite."""
    # Within 2^-100 .. 2^100, so that both are normal numbers.
    exponent = tl.minimum(tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 27), 227)
    # Asked this way round, not a number has the scale 1.
    scalable = (largest > 0.0) & (largest < float("inf"))
    exponent = tl.where(scalable, 254 + EXPONENT - exponent, 127)
    scale = (exponent << 23).to(tl.float32, bitcast=True)
    return scale, ((254 - exponent) << 23).to(tl.float32, bitcast=True)
