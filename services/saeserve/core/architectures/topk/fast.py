"""The step of the TopK family in compiled loops: the gradients of `loss`, with one dense product.

What it computes is said by the losses in `loss`, `batchtopk` and `matryoshka`; tests hold them to
be equal. It runs on the CPU where numba is installed, on a GPU `on_device` does; elsewhere
autograd of `sparse` takes its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from saeserve.core.architectures import auxk
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    LossOutput,
    Stats,
    StepOutput,
    Tensors,
)
from saeserve.core.architectures.initialisation import input_bias
from saeserve.core.architectures.topk import sparse
from saeserve.core.architectures.topk.batchtopk import BatchTopK
from saeserve.core.architectures.topk.dictionaries import add_auxiliary, gradients_of, to_output
from saeserve.core.architectures.topk.loss import TopK
from saeserve.core.architectures.topk.matryoshka import Matryoshka
from saeserve.core.architectures.topk.sparse import Prefixes
from saeserve.core.architectures.topk.threshold import ByBatch
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.kernels.compiled import usable
from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.topk import batch_selection, reconstruction, row_selection, weights
from saeserve.core.kernels.topk.entries import Entries
from saeserve.core.specs.architectures.base import AuxKSpec
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec
from saeserve.core.specs.architectures.topk import TopKSpec

SpecT = TypeVar("SpecT", bound=BatchTopKSpec)
Step = Callable[[TopKSpec, Tensors, Tensors, Batch, Context], StepOutput]
"""`Architecture.gradients` of TopK."""
NestedStep = Callable[
    [BatchTopKSpec, Prefixes, Tensors, Tensors, Batch, Context], tuple[StepOutput, Tensor]
]
"""The form of `nested`, for any device."""


def possible(params: Tensors, batch: Batch) -> bool:
    """Whether this step can run on these tensors."""
    return usable(*params.values(), batch.x_BD, batch.target_BO)


def topk_step(spec: TopKSpec, params: Tensors, batch: Batch) -> Step | None:
    """The step of TopK that can run on these tensors; None leaves it to autograd."""
    if usable_on_device(*params.values(), batch.x_BD, batch.target_BO):
        # Imports Triton, which is missing elsewhere.
        from saeserve.core.architectures.topk import on_device

        if on_device.possible(spec, params["W_enc"].shape[0]):
            return on_device.topk
    return topk if possible(params, batch) else None


def nested_step(spec: BatchTopKSpec, params: Tensors, batch: Batch) -> NestedStep | None:
    """The same of BatchTopK and Matryoshka."""
    if usable_on_device(*params.values(), batch.x_BD, batch.target_BO):
        from saeserve.core.architectures.topk import on_device

        if on_device.nested_possible(spec, batch.x_BD.shape[0], params["W_enc"].shape[0]):
            return on_device.nested
    return nested if possible(params, batch) else None


@dataclass(frozen=True)
class _Errors:
    """How the squared errors of prefixes make the loss, and which of them is the reconstruction
    that AuxK and the statistics speak of."""

    weights: tuple[float, ...]
    proper: int
    detach_inner: bool = False


@dataclass(frozen=True)
class _Step:
    """A step's arguments, and its rows centred."""

    spec: AuxKSpec
    params: Tensors
    state: Tensors
    batch: Batch
    ctx: Context
    encoder: Encoder

    @classmethod
    def of(
        cls, spec: AuxKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> _Step:
        layer = input_bias(params), params["W_enc"], params["b_enc"]
        encoder = Encoder.centring(batch.x_BD, *layer, ctx.encoder_dtype)
        return cls(spec, params, state, batch, ctx, encoder)

    def auxiliary(self) -> auxk.Taken | None:
        """What AuxK takes; None without it."""
        return auxk.taken(self.spec, self.ctx) if self.spec.auxk_coefficient else None


@torch.no_grad()
def topk(spec: TopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context) -> StepOutput:
    """`TopK.loss` with gradients; in Multi-TopK the k largest are a group, the next 3k another."""
    step = _Step.of(spec, params, state, batch, ctx)
    wide = spec.multi_topk_coefficient
    entries = row_selection.top(step.encoder, (spec.k, 4 * spec.k) if wide else (spec.k,))
    errors = _Errors((1.0, wide) if wide else (1.0,), proper=0)
    return _output(step, entries, errors, ("reconstruction", "multi_topk"))


@torch.no_grad()
def nested(
    spec: BatchTopKSpec,
    nesting: Prefixes,
    params: Tensors,
    state: Tensors,
    batch: Batch,
    ctx: Context,
) -> tuple[StepOutput, Tensor]:
    """`sparse.nested_loss` with gradients: the output, its state unchanged, and the level."""
    step = _Step.of(spec, params, state, batch, ctx)
    n = max(1, round(ctx.scheduled.get("k", spec.k) * batch.x_BD.shape[0]))
    top = batch_selection.top_of_batch(step.encoder, n, nesting.widths)
    groups = len(nesting.widths)
    errors = _Errors((1 / groups,) * groups, groups - 1, nesting.detach_inner)
    return _output(step, top.entries, errors, ("reconstruction",) * groups), top.level


def _output(step: _Step, entries: Entries, errors: _Errors, names: tuple[str, ...]) -> StepOutput:
    """All gradients; the terms of the prefixes have `names`, in their order."""
    rows, taken = step.batch.target_BO.shape[0], step.auxiliary()
    weight = 1 / (rows * float(step.state["variance"]))
    found = reconstruction.reconstruct(
        entries,
        step.batch.target_BO,
        step.params["b_dec"],
        step.params["W_dec"],
        tuple(weight * own for own in errors.weights),
        detach_inner=errors.detach_inner,
        residual_of=errors.proper if taken and taken.latents else None,
    )
    total = weights.gradients(
        entries,
        found,
        step.encoder.x_BD,
        (step.params["W_enc"], step.params["W_dec"]),
        fired_groups=errors.proper + 1,
    )
    shares = found.squares_G * found.squares_G.new_tensor(errors.weights) * weight
    # NaN where the choice of entries cannot be trusted to show NaN or Inf: a transcoder's rows are
    # not in its target, and what is NaN with a negative sign is never chosen.
    terms: Tensors = {"reconstruction": step.encoder.not_finite()}
    for name, share in zip(names, shares.to(step.encoder.x_BD), strict=False):
        terms[name] = terms[name] + share if name in terms else share
    if taken is not None:
        rows_of = (found.residual_BO, step.encoder.x_BD)
        terms["auxk"] = add_auxiliary(total, step.spec, step.params, rows_of, taken)
    return StepOutput(
        loss=torch.stack(list(terms.values())).sum(),
        terms=terms,
        grads=gradients_of(step.params, total, found.to_bias(rows)),
        state=step.state,
        stats=Stats(total.fired_F, found.squares_G[errors.proper].to(step.encoder.x_BD)),
        to_target_BO=_to_target(step, found, detach_inner=errors.detach_inner),
    )


def _to_target(
    step: _Step, found: reconstruction.Reconstructed, *, detach_inner: bool
) -> Tensor | None:
    if not step.batch.target_gradient:
        return None
    rows = step.batch.target_BO.shape[0]
    return -to_output(found.gradients_NO, rows, detach_inner=detach_inner)


class FastTopK(TopK):
    """TopK with the fast form of the device."""

    def autograd_loss(
        self, spec: TopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """`loss` with one dense product."""
        return sparse.topk_loss(spec, params, state, batch, ctx)

    def gradients(
        self, spec: TopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """Gradients of `loss`: by kernels where they can run, else by autograd."""
        step = topk_step(spec, params, batch) or super().gradients
        return step(spec, params, state, batch, ctx)


class _FastByBatch(ByBatch[SpecT]):
    """The same for those that choose among all entries of a micro-batch."""

    def autograd_loss(
        self, spec: SpecT, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """`loss` with one dense product."""
        nesting = Prefixes.of(spec, params["W_dec"].shape[0])
        output, level = sparse.nested_loss(spec, nesting, params, state, batch, ctx)
        carried = self.carried(spec, state, level, output.stats, batch, ctx)
        return dataclasses.replace(output, state=carried)

    def gradients(
        self, spec: SpecT, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """Gradients of `loss`: by kernels where they can run, else by autograd."""
        step = nested_step(spec, params, batch)
        if step is None:
            return super().gradients(spec, params, state, batch, ctx)
        nesting = Prefixes.of(spec, params["W_dec"].shape[0])
        output, level = step(spec, nesting, params, state, batch, ctx)
        carried = self.carried(spec, state, level, output.stats, batch, ctx)
        return dataclasses.replace(output, state=carried)


class FastBatchTopK(_FastByBatch[BatchTopKSpec], BatchTopK):
    """BatchTopK with the fast form of the device."""


class FastMatryoshka(_FastByBatch[MatryoshkaSpec], Matryoshka):
    """Matryoshka with the fast form of the device."""
