"""Matryoshka SAE on BatchTopK (Bussmann et al. 2025, arXiv 2503.17547).

Loss: see `nested`, with the spec's widths. Parameters and evaluation form are BatchTopK's. State:
BatchTopK's, and with `sort_by_frequency` also `frequency` [F], each latent's share of rows in which
it fired, averaged over the last 100 steps. Every `sort_every_steps` steps the trainer puts the
latents in descending order of it, so that the narrow prefixes hold the latents that fire most.
What the options are worth: docs/RECIPES.md, "What raised ground-truth scores".
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures.contract import (
    Batch,
    Context,
    Dimensions,
    Permutation,
    Stats,
    Tensors,
)
from saeserve.core.architectures.topk.batchtopk import BatchTopK, calibrated
from saeserve.core.architectures.topk.nested import Prefixes
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec
from saeserve.errors import SpecError

FREQUENCY_WINDOW = 100
"""Steps that the firing frequencies are averaged over."""
PER_LATENT = frozenset({"W_enc", "b_enc", "W_dec", "frequency"})
"""Parameters and state that have a row for each latent."""


class Matryoshka(BatchTopK):
    """The Matryoshka architecture; see the module's formulas."""

    def initialise(
        self, spec: BatchTopKSpec, dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
    ) -> tuple[Tensors, Tensors]:
        """As BatchTopK's; frequencies are known after the first micro-batch."""
        params, state = super().initialise(spec, dims, sample_ND, target_NO, seed)
        if _matryoshka(spec).sort_by_frequency:
            state["frequency"] = sample_ND.new_zeros(dims.d_sae)
        return params, state

    def _prefixes(self, spec: BatchTopKSpec, params: Tensors) -> Prefixes:  # noqa: ARG002 - BatchTopK's are in its parameters
        options = _matryoshka(spec)
        return Prefixes(_widths(options), options.detach_inner)

    def _carried(
        self,
        spec: BatchTopKSpec,
        state: Tensors,
        stats: Stats,
        level: Tensor,
        batch: Batch,
        ctx: Context,
    ) -> Tensors:
        state = calibrated(state, level, ctx)
        if not _matryoshka(spec).sort_by_frequency:
            return state
        return _counted(state, stats.fired_F, batch.x_BD.shape[0], ctx)

    def permutation(
        self, spec: ArchitectureSpec, state: Tensors, steps_done: int
    ) -> Permutation | None:
        """Descending by frequency every `sort_every_steps` steps; equals keep their order."""
        options = _matryoshka(spec)
        if not options.sort_by_frequency or steps_done % options.sort_every_steps:
            return None
        return Permutation(state["frequency"].argsort(descending=True, stable=True), PER_LATENT)


def _matryoshka(spec: ArchitectureSpec) -> MatryoshkaSpec:
    if not isinstance(spec, MatryoshkaSpec):
        raise SpecError(f"train.{spec.name}", "is not a matryoshka spec", remedy="set matryoshka")
    return spec


def _widths(spec: MatryoshkaSpec) -> tuple[int, ...]:
    if not spec.widths:
        raise SpecError("train.matryoshka.widths", "is not resolved", remedy="resolve the spec")
    return spec.widths


def _counted(state: Tensors, fired_F: Tensor, rows: int, ctx: Context) -> Tensors:
    """A running mean that becomes an exponential one; summed over ranks."""
    frequency_F = state["frequency"]
    seen = torch.cat([fired_F.to(frequency_F), frequency_F.new_full((1,), rows)])
    total = ctx.collective.all_reduce_sum(seen)
    rate = 1 / min(ctx.step + 1, FREQUENCY_WINDOW)
    return {**state, "frequency": torch.lerp(frequency_F, total[:-1] / total[-1], rate)}
