"""Defaults that are fitted to a run's length and width, where a spec leaves them unset.

The laws are smooth and their optima wide (a rate twice as high or low costs a few per cent of
FVU). They were found on planted rows of 64 to 256 dimensions and on SmolLM2 rows (576), 256 to
4,608 latents, 800 to 4,000 steps, and meet the published rates at 100,000 steps (Gao et al. 2024).
"""

from __future__ import annotations

import math
from typing import Any, cast

SMALLEST_LOG_BATCH, LARGEST_LOG_BATCH = 0, 12
WARMUP_SHARE = 0.05
USUAL_L0 = 32.0
"""The default k of the specs that have one."""
LARGEST_SHARE = 1 / 16
"""Largest L0 that is chosen when none is given, as a share of d_sae."""
PRESET_STEPS = 500
"""Steps that a preset's batch leaves at least."""


def batch_of(tokens: int) -> int:
    """The power of two nearest to sqrt(tokens) / 2, at most 4,096: 256 at 200 k tokens, 512 at 1 M,
    2,048 at 10 M, 4,096 from 50 M on."""
    nearest = round(math.log2(max(1.0, math.sqrt(max(tokens, 1)) / 2)))
    return 2 ** min(LARGEST_LOG_BATCH, max(SMALLEST_LOG_BATCH, nearest))


def with_batch(fields: dict[str, Any]) -> dict[str, Any]:
    """With a batch fitted to the tokens where none is set, of whole micro-batches if those are."""
    tokens, micro = fields.get("tokens"), fields.get("micro_batch_size")
    numeric = isinstance(tokens, int | float) and math.isfinite(tokens) and tokens >= 1
    if fields.get("batch_size") is not None or not numeric:
        return fields
    batch = batch_of(int(cast("float", tokens)))
    if isinstance(micro, int) and micro > 0:
        batch = micro * max(1, round(batch / micro))
    return {**fields, "batch_size": batch}


def batch_of_preset(published: int, tokens: int) -> int:
    """The published batch, or the largest power of two below it that leaves PRESET_STEPS steps."""
    most = max(1, tokens // PRESET_STEPS)
    return published if published <= most else 2 ** (most.bit_length() - 1)


def warmup_of(steps: int) -> int:
    """Steps of linear warm-up."""
    return int(WARMUP_SHARE * steps)


def rate_of(learning_rate: float, d_in: int, d_sae: int, steps: int) -> float:
    """The peak rate, from an architecture's `learning_rate`: falls as sqrt(1 / d_in), d_sae^(-1/4)
    and steps^(-1/3)."""
    shape = math.sqrt(1 / d_in) * (1024 / d_sae) ** 0.25
    return learning_rate * shape * (1000 / max(steps, 100)) ** (1 / 3)


def l0_of(d_sae: int) -> float:
    """The L0 of a penalty architecture for which neither target_l0 nor a coefficient is set."""
    return min(USUAL_L0, max(1.0, d_sae * LARGEST_SHARE))
