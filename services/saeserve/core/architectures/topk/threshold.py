"""What BatchTopK and Matryoshka share: the start, the schedule of k, and a calibrated threshold.

A choice among the entries of a whole batch cannot be made row by row, so the evaluation form keeps
h > threshold. State: `variance` as TopK's, and `threshold`, which averages over micro-batches the
level half-way between the smallest kept entry and the largest left, so that on average k entries a
row exceed it; taking the smallest kept itself would, with the strict comparison, lose one entry a
batch. The average is a running mean that becomes an exponential one: micro-batch number n has
weight 1/n, never less than 1/window. So the start is forgotten at once, and the window, 5 % of the
run's steps and at most 1,000, lies inside the last stretch in which k and (by default) the learning
rate have come down: the level that is averaged belongs to the weights that are exported.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from saeserve.core.architectures import auxk, continuing
from saeserve.core.architectures.base import Architecture, form_of
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    Dimensions,
    EvaluationForm,
    Recordable,
    Revival,
    Stats,
    Tensors,
)
from saeserve.core.architectures.initialisation import selecting_start
from saeserve.core.architectures.topk.revival import above_threshold
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec

SpecT = TypeVar("SpecT", bound=BatchTopKSpec)

WINDOW_SHARE = 0.05
LONGEST_WINDOW = 1_000
AVERAGING = "averaging"
"""Name of the weight in the average among `Context.numbers`."""


class ByBatch(Architecture[SpecT]):
    """Base of the architectures that choose among all entries of a micro-batch."""

    def scheduled(self, spec: SpecT, step: int, steps: int) -> dict[str, float]:
        """k, where it is annealed."""
        return {} if spec.k_initial is None else {"k": spec.k_of_step(step, steps)}

    def initialise(
        self, spec: SpecT, dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
    ) -> tuple[Tensors, Tensors]:
        """Start as TopK does; the threshold is known after the first micro-batch.

        Raises DataError for a sample without variance.
        """
        params, state = selecting_start(spec, dims, sample_ND, target_NO, seed)
        return params, {**state, "threshold": torch.zeros((), dtype=torch.float64)}

    def recordable(self, spec: SpecT, ctx: Context) -> Recordable | None:
        """The step's number is read for the weight in the average; k decides how long lists are."""
        return auxk.recordable(spec, ctx, {AVERAGING: averaging_rate(ctx)})

    def carried(
        self, spec: SpecT, state: Tensors, level: Tensor, stats: Stats, batch: Batch, ctx: Context
    ) -> Tensors:
        """The state after this micro-batch, whose kept and other entries `level` divides."""
        return calibrated(state, level, ctx)

    def evaluation_form(self, spec: SpecT, params: Tensors, state: Tensors) -> EvaluationForm:
        """A threshold model: one threshold for all latents, never below zero."""
        threshold = state["threshold"].to(params["b_enc"])
        return form_of(spec, params, threshold_F=threshold.expand_as(params["b_enc"]).clone())

    def from_form(
        self, spec: SpecT, form: EvaluationForm, params: Tensors, state: Tensors
    ) -> tuple[Tensors, Tensors]:
        """With the mean of the form's thresholds; raises DataMismatchError where they differ."""
        threshold = continuing.one_threshold(spec, form).to(state["threshold"])
        params, state = super().from_form(spec, form, params, state)
        return params, {**state, "threshold": threshold}

    def revived_norms(
        self, spec: SpecT, params: Tensors, state: Tensors, form: EvaluationForm, new: Revival
    ) -> Tensor:
        """Norms [N]: the usual one, or as much as exceeds the threshold on a latent's own row."""
        usual_N = super().revived_norms(spec, params, state, form, new)
        return above_threshold(usual_N, state["threshold"], self.centred(spec, params, new.rows)[0])


def calibrated(state: Tensors, level: Tensor, ctx: Context) -> Tensors:
    """`state` with the threshold moved towards this micro-batch's level, the mean over ranks.

    A level that is not finite is kept: a divergence is shown, never hidden.
    """
    seen = torch.stack([level.double(), level.new_ones((), dtype=torch.float64)])
    total, ranks = ctx.collective.all_reduce_sum(seen).unbind()
    threshold = state["threshold"]
    rate = number(ctx, AVERAGING, averaging_rate(ctx), threshold)
    return {**state, "threshold": torch.lerp(threshold, total / ranks, rate)}


def number(ctx: Context, name: str, value: float, like: Tensor) -> Tensor:
    """A number of this step as a scalar of the type of `like`: the recorded one, or `value`."""
    if name in ctx.numbers:
        return ctx.numbers[name].to(like.dtype)
    return like.new_full((), value)


def averaging_rate(ctx: Context) -> float:
    """Weight of this micro-batch in an average over the last window: see the module's text."""
    window = min(LONGEST_WINDOW, max(1, int(WINDOW_SHARE * ctx.steps)))
    return 1 / min(ctx.step + 1, window)
