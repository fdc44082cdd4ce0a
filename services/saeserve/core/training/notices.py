"""What a reader should know of how a run starts or goes on."""

from __future__ import annotations

from saeserve.core.specs.training import DEAD_WINDOW_TOKENS, TrainSpec
from saeserve.core.training.checkpoint import Checkpoint
from saeserve.core.training.environment import Environment
from saeserve.core.training.events import Warned


def of_start(spec: TrainSpec) -> tuple[Warned, ...]:
    """Warn of a run from step 0 whose latents count as dead sooner than usual."""
    window = spec.dead_window_tokens
    if window >= DEAD_WINDOW_TOKENS:
        return ()
    message = f"latents count as dead after {window:,} tokens instead of {DEAD_WINDOW_TOKENS:,}"
    return (Warned(0, "DEAD_WINDOW_LOWERED", message),)


def of_resume(loaded: Checkpoint, now: Environment) -> tuple[Warned, ...]:
    """Warn of a run from a checkpoint that was made in another environment than `now`."""
    if loaded.environment == now:
        return ()
    message = (
        "the result may differ in the last bits from an undisturbed run: the checkpoint is of "
        f"{loaded.environment.to_json()}, this process is {now.to_json()}"
    )
    return (Warned(loaded.state.step, "ENVIRONMENT_CHANGED", message),)
