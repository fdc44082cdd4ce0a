"""How far the host may be ahead of an accelerator, and what it knows of the dead latents by then.

At most STEPS steps are queued that are not known to be done. So before a step is queued, the one
before the last is done, and what it counted has arrived: the latents that had not fired for a
window less one batch. Only of those can one be dead when the next step begins, for the step in
between adds one batch at most. The two counts that have not been used yet are part of the state: a
resumed run has the bounds of an undisturbed one, whatever depends on them.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from saeserve.core.data.lane import Fetched, Lane
from saeserve.core.training import dead
from saeserve.core.training.state import TrainerState

STEPS = 2
BEFORE, AFTER = "dead_soon_before", "dead_soon_after"


class Flight:
    """The steps of one run that are queued."""

    def __init__(self, lane: Lane, state: TrainerState, window: int, rows: int) -> None:
        """`window` and `rows` (of a batch) in tokens. On the CPU nothing is queued, and what an
        accelerator left in the state is dropped."""
        self._lane = lane
        self._soon = window - rows
        self._counts: deque[Fetched] = deque()
        if not lane.asynchronous:
            state.bounds.clear()
            return
        if not state.bounds:
            counter_F = state.tokens_since_fired_or_resampled_F
            state.bounds[BEFORE] = dead.mask(counter_F, window).sum()
            state.bounds[AFTER] = self._count(state)
        for name in (BEFORE, AFTER):
            self._counts.append(lane.fetch(state.bounds[name]))

    def admit(self) -> int | None:
        """Wait until fewer than STEPS steps are queued. Returns how many latents are dead at most
        when the next one begins; None on the CPU, where they can be counted."""
        return int(self._counts.popleft().value()) if self._lane.asynchronous else None

    def queued(self, state: TrainerState) -> None:
        """A step was queued that led to `state`."""
        if self._lane.asynchronous:
            state.bounds[BEFORE].copy_(state.bounds[AFTER])
            state.bounds[AFTER].copy_(self._count(state))
            self._counts.append(self._lane.fetch(state.bounds[AFTER]))

    def _count(self, state: TrainerState) -> Tensor:
        return torch.count_nonzero(dead.mask(state.tokens_since_fired_or_resampled_F, self._soon))
