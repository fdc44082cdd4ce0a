"""Whether the bfloat16 path chooses the latents that float32 chooses."""

from __future__ import annotations

import torch
from bench.training.rows import Rows
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Context
from saeserve.core.architectures.registry import architecture_of
from saeserve.core.training.setup import OneRank
from saeserve.core.training.trainer import Trainer

ROWS = 256


def jaccard(trainer: Trainer, rows: Rows) -> float:
    """Mean over held-out rows of |A ∩ B| / |A ∪ B|, the active sets of the two encoder types.

    Sets come from the training step itself, asked for the gradients of one row at a time.
    """
    x_BD = next(rows.heldout())[:ROWS]
    shares = [_of_row(trainer, row_D[None]) for row_D in x_BD]
    return sum(shares) / len(shares)


def _of_row(trainer: Trainer, x_1D: Tensor) -> float:
    low_F, full_F = (_active(trainer, x_1D, dtype) for dtype in (torch.bfloat16, torch.float32))
    return overlap(low_F, full_F)


def overlap(a_F: Tensor, b_F: Tensor) -> float:
    """|A ∩ B| / |A ∪ B| of two sets as bool [F]; 1 where both are empty."""
    union = int((a_F | b_F).sum())
    return int((a_F & b_F).sum()) / union if union else 1.0


def _active(trainer: Trainer, x_1D: Tensor, dtype: torch.dtype) -> Tensor:
    """bool [F]: the latents that fire on the row."""
    spec, state = trainer.spec, trainer.state
    architecture = architecture_of(spec)
    ctx = Context(
        step=trainer.step,
        steps=trainer.steps,
        scheduled=architecture.scheduled(spec.architecture, trainer.step - 1, trainer.steps),
        dead_F=torch.zeros_like(state.tokens_since_fired_F, dtype=torch.bool),
        seed=spec.seed,
        collective=OneRank(),
        encoder_dtype=dtype,
    )
    batch = Batch(x_1D, x_1D)
    output = architecture.gradients(spec.architecture, state.params, state.architecture, batch, ctx)
    return output.stats.fired_F > 0
