"""What happens at which step: pure functions of it."""

from __future__ import annotations


def learning_rate(
    step: int, steps: int, *, peak: float, warmup_steps: int, decay_fraction: float
) -> float:
    """The rate of the step after `step` steps done, of `steps`.

    Linear warm-up reaches `peak` at the step number `warmup_steps`; over the last
    `decay_fraction` of the run the rate falls linearly, and would be zero after the last step.
    """
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    decay_steps = decay_fraction * steps
    cool = min(1.0, (steps - step) / decay_steps) if decay_steps else 1.0
    return peak * warm * cool
