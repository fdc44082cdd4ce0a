"""BatchTopK (Bussmann, Leask, Nanda 2024, arXiv 2412.06410) with AuxK.

Loss: see `nested`, with the one prefix d_sae. Parameters as TopK's: W_enc [F, D], b_enc [F], W_dec
[F, O] with unit rows, b_dec [O] (and b_pre [D] for a transcoder). State: `variance` of the initial
sample, and `threshold`, the evaluation form's, which keeps h > threshold row by row.

The threshold averages, over micro-batches, the level half-way between the smallest kept entry and
the largest left, so that on average k entries a row exceed it; taking the smallest kept itself
would, with the strict comparison, lose one entry a batch. The average is a running mean that
becomes an exponential one: micro-batch number n has weight 1/n, never less than 1/window. So the
start is forgotten at once, and the window, 5 % of the run's steps and at most 1,000, lies inside
the last stretch in which k and (by default) the learning rate have come down: the level that is
averaged belongs to the weights that are exported.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from saeserve.core.architectures import gradients
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    Dimensions,
    EvaluationForm,
    LossOutput,
    Stats,
    StepOutput,
    Tensors,
)
from saeserve.core.architectures.initialisation import (
    centre_biases,
    unit_dictionaries,
    with_encoder_norm,
)
from saeserve.core.architectures.topk import fast
from saeserve.core.architectures.topk.loss import (
    SAMPLE_ROWS,
    folded,
    sample_variance,
)
from saeserve.core.architectures.topk.nested import Prefixes, nested_loss
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec

WINDOW_SHARE = 0.05
LONGEST_WINDOW = 1_000


class BatchTopK:
    """The BatchTopK architecture; see the module's formulas."""

    def unit_rows(self, spec: BatchTopKSpec) -> frozenset[str]:  # noqa: ARG002 - the contract's signature
        """The decoder's."""
        return frozenset({"W_dec"})

    def sample_rows(self, spec: BatchTopKSpec, dims: Dimensions) -> int:  # noqa: ARG002 - the contract's signature
        """As TopK's."""
        return SAMPLE_ROWS

    def scheduled(self, spec: BatchTopKSpec, step: int, steps: int) -> dict[str, float]:
        """k, where it is annealed: linear from k_initial to k over k_anneal_fraction."""
        if spec.k_initial is None:
            return {}
        span = spec.k_anneal_fraction * steps
        done = min(1.0, step / span) if span else 1.0
        return {"k": spec.k_initial + done * (spec.k - spec.k_initial)}

    def initialise(
        self, spec: BatchTopKSpec, dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
    ) -> tuple[Tensors, Tensors]:
        """As TopK's; the threshold is known after the first micro-batch.

        Raises DataError for a sample without variance.
        """
        units = unit_dictionaries(dims, sample_ND, target_NO, seed, spec.name)
        params = {
            **with_encoder_norm(units, spec.encoder_norm),
            **centre_biases(sample_ND, target_NO, spec.b_dec_init),
            "b_enc": sample_ND.new_zeros(dims.d_sae),
        }
        threshold = torch.zeros((), dtype=torch.float64)
        return params, {"variance": sample_variance(target_NO), "threshold": threshold}

    def loss(
        self, spec: BatchTopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """The mean over prefixes (BatchTopK has one) of squared error over the sample's variance,
        plus AuxK; the state has a new threshold."""
        prefixes = self._prefixes(spec, params)
        output, level = nested_loss(spec, prefixes, params, state, batch, ctx)
        carried = self._carried(spec, state, output.stats, level, batch, ctx)
        return dataclasses.replace(output, state=carried)

    def gradients(
        self, spec: BatchTopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """Those of `loss`: in compiled loops where they can run (see `fast`), else by
        autograd."""
        if fast.possible(params, batch):
            prefixes = self._prefixes(spec, params)
            output, level = fast.nested(spec, prefixes, params, state, batch, ctx)
            carried = self._carried(spec, state, output.stats, level, batch, ctx)
            return dataclasses.replace(output, state=carried)
        return gradients.by_autograd(
            lambda leaves: self.loss(spec, leaves, state, batch, ctx), params
        )

    def _prefixes(self, spec: BatchTopKSpec, params: Tensors) -> Prefixes:  # noqa: ARG002 - Matryoshka's are in its spec
        return Prefixes((params["W_dec"].shape[0],))

    def _carried(
        self,
        spec: BatchTopKSpec,  # noqa: ARG002 - Matryoshka's says whether it counts
        state: Tensors,
        stats: Stats,  # noqa: ARG002 - Matryoshka counts how often latents fired
        level: Tensor,
        batch: Batch,  # noqa: ARG002 - in so many rows
        ctx: Context,
    ) -> Tensors:
        """The state after this micro-batch."""
        return calibrated(state, level, ctx)

    def evaluation_form(
        self,
        spec: BatchTopKSpec,  # noqa: ARG002 - the contract's signature
        params: Tensors,
        state: Tensors,
    ) -> EvaluationForm:
        """A threshold model: one threshold for all latents, never below zero."""
        return folded(
            params,
            threshold_F=state["threshold"].to(params["b_enc"]).expand_as(params["b_enc"]).clone(),
        )


def calibrated(state: Tensors, level: Tensor, ctx: Context) -> Tensors:
    """`state` with the threshold moved towards this micro-batch's level, the mean over ranks.

    A level that is not finite is kept: a divergence is shown, never hidden.
    """
    seen = torch.stack([level.double(), level.new_ones((), dtype=torch.float64)])
    total, ranks = ctx.collective.all_reduce_sum(seen).unbind()
    threshold = state["threshold"]
    return {**state, "threshold": torch.lerp(threshold, total / ranks, averaging_rate(ctx))}


def averaging_rate(ctx: Context) -> float:
    """Weight of this micro-batch in an average over the last window: see the module's text."""
    window = min(LONGEST_WINDOW, max(1, int(WINDOW_SHARE * ctx.steps)))
    return 1 / min(ctx.step + 1, window)
