"""Matryoshka's latents in the order of how often they fire, so that the narrow prefixes hold those
that fire most (docs/RECIPES.md, "What raised ground-truth scores").

With `sort_by_frequency` the state has `frequency` [F], each latent's share of rows in which it
fired, averaged over the last 100 steps. Every `sort_every_steps` steps the trainer puts the latents
in descending order of it.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from saeserve.core.architectures.contract import (
    Batch,
    Context,
    Dimensions,
    Permutation,
    Recordable,
    Stats,
    Tensors,
)
from saeserve.core.architectures.topk.threshold import ByBatch, number
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec

FREQUENCY_WINDOW = 100
"""Steps that the firing frequencies are averaged over."""
COUNTING = "counting"
"""Name of the weight in this average among `Context.numbers`."""
PER_LATENT = frozenset({"W_enc", "b_enc", "W_dec", "frequency"})
"""Parameters and state that have a row for each latent."""


class Sorting(ByBatch[MatryoshkaSpec]):
    """What Matryoshka does apart from its loss."""

    def initialise(
        self,
        spec: MatryoshkaSpec,
        dims: Dimensions,
        sample_ND: Tensor,
        target_NO: Tensor,
        seed: int,
    ) -> tuple[Tensors, Tensors]:
        """Start as BatchTopK does; frequencies are known after the first micro-batch."""
        params, state = super().initialise(spec, dims, sample_ND, target_NO, seed)
        if spec.sort_by_frequency:
            state["frequency"] = sample_ND.new_zeros(dims.d_sae)
        return params, state

    def recordable(self, spec: MatryoshkaSpec, ctx: Context) -> Recordable | None:
        """What BatchTopK depends on, and the weight in the average of the frequencies."""
        found = super().recordable(spec, ctx)
        if found is None or not spec.sort_by_frequency:
            return found
        return dataclasses.replace(found, numbers={**found.numbers, COUNTING: _rate(ctx)})

    def carried(
        self,
        spec: MatryoshkaSpec,
        state: Tensors,
        level: Tensor,
        stats: Stats,
        batch: Batch,
        ctx: Context,
    ) -> Tensors:
        """With the firing frequencies of this micro-batch too."""
        state = super().carried(spec, state, level, stats, batch, ctx)
        if not spec.sort_by_frequency:
            return state
        return _counted(state, stats.fired_F, batch.x_BD.shape[0], ctx)

    def permutation(
        self, spec: MatryoshkaSpec, state: Tensors, steps_done: int
    ) -> Permutation | None:
        """Descending by frequency every `sort_every_steps` steps; equals keep their order."""
        if not spec.sort_by_frequency or steps_done % spec.sort_every_steps:
            return None
        return Permutation(state["frequency"].argsort(descending=True, stable=True), PER_LATENT)


def _counted(state: Tensors, fired_F: Tensor, rows: int, ctx: Context) -> Tensors:
    """A running mean that becomes an exponential one; summed over ranks."""
    frequency_F = state["frequency"]
    seen = torch.cat([fired_F.to(frequency_F), frequency_F.new_full((1,), rows)])
    total = ctx.collective.all_reduce_sum(seen)
    rate = number(ctx, COUNTING, _rate(ctx), frequency_F)
    return {**state, "frequency": torch.lerp(frequency_F, total[:-1] / total[-1], rate)}


def _rate(ctx: Context) -> float:
    """Weight of this micro-batch in the average."""
    return 1 / min(ctx.step + 1, FREQUENCY_WINDOW)
