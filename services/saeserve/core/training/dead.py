"""Dead latents, always counted in tokens (docs/DESIGN.md, "Definitions").

A latent is dead that fired on none of the last tokens; the window is in the figure's name: `dead`
counts over dead_window_tokens, `dead_fraction` over the last min(10 M, half the run). Only firing
ends it: a latent that was resampled is dead until it fires. A window that is not whole batches is
rounded up to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.gpu.device import runs_kernels
from saeserve.core.specs.training import DEAD_WINDOW_TOKENS


def update_(tokens_since_fired_F: Tensor, fired_F: Tensor, batch_tokens: int) -> None:
    """Count a batch: zero where a latent fired in it, `batch_tokens` more elsewhere; in place."""
    tokens_since_fired_F.add_(batch_tokens).mul_((fired_F == 0).long())


def update_both_(counters: tuple[Tensor, Tensor], fired_F: Tensor, batch_tokens: int) -> None:
    """`update_` of two counters, on a GPU in one launch."""
    if runs_kernels(fired_F.device):
        from saeserve.core.gpu import totals

        totals.silent_(counters, fired_F, batch_tokens)
        return
    for counter_F in counters:
        update_(counter_F, fired_F, batch_tokens)


def mask(tokens_since_fired_F: Tensor, window_tokens: int) -> Tensor:
    """bool [F]: latents that have not fired for at least `window_tokens` tokens."""
    return tokens_since_fired_F >= window_tokens


def count(tokens_since_fired_F: Tensor, window_tokens: int) -> Tensor:
    """How many latents fired on none of the last `window_tokens` tokens; a scalar on the device."""
    return mask(tokens_since_fired_F, window_tokens).sum()


def final_fraction(tokens_since_fired_F: Tensor, tokens: int) -> float:
    """Share of latents that fired on none of the last min(10 M, half the run) training tokens."""
    window = min(DEAD_WINDOW_TOKENS, max(1, tokens // 2))
    return float(mask(tokens_since_fired_F, window).double().mean())


def never_fired(latents: int, device: torch.device) -> Tensor:
    """The counters before the first step: int64 zeros [F]."""
    return torch.zeros(latents, dtype=torch.int64, device=device)
