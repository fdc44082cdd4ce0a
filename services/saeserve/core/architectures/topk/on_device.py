"""The TopK family's step in Triton: the gradients of `loss`, `batchtopk` and `matryoshka`, with one
dense product in low precision.

It runs on a GPU where Triton is installed. The choice is that of float32: whatever may or may not
be among the largest is computed again. In TopK what surely is keeps the product's value; W_dec,
errors and inputs are gathered in float16, within its range; all sums are float32. So gradients are
within a thousandth of those in float32, and with `encoder_dtype` float32 nothing is rounded.
No tensor [B, F] is wider than 2 bytes an entry, unless `encoder_dtype` asks for float32. AuxK is
dense among the dead latents, and left out without any. The host never waits for the device where
the context bounds their number; without a bound it does so once a micro-batch to count them, and
where there are some once more to list them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.architectures import auxk
from saeserve.core.architectures.contract import Batch, Context, Stats, StepOutput, Tensors
from saeserve.core.architectures.initialisation import input_bias
from saeserve.core.architectures.topk.dictionaries import add_auxiliary, to_output
from saeserve.core.architectures.topk.sparse import Prefixes
from saeserve.core.gpu import batch_choice, choice, prefixes, reconstruction, rows, segments, totals
from saeserve.core.gpu.batch_choice import BatchChosen
from saeserve.core.gpu.columns import Piece, columns
from saeserve.core.gpu.entries import Entries
from saeserve.core.gpu.reconstruction import Shares
from saeserve.core.gpu.rows import Rows
from saeserve.core.kernels.topk.weights import DictionaryGradients
from saeserve.core.specs.architectures.base import AuxKSpec
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.topk import TopKSpec


def possible(spec: TopKSpec, latents: int) -> bool:
    """Whether the kernels compute this spec: lists of all that is chosen of a row fit."""
    return choice.possible(max(_most(spec, latents), spec.auxiliary_latents(latents)), latents)


def nested_possible(spec: BatchTopKSpec, rows: int, latents: int) -> bool:
    """The same of a spec that chooses among a whole micro-batch of so many rows."""
    if not choice.possible(spec.auxiliary_latents(latents), latents):
        return False
    return batch_choice.possible(_wanted(spec.most_active_latents, rows), rows, latents)


@dataclass(frozen=True)
class _Encoded:
    """Rows centred, and their pre-activations, which are needed for the choice alone."""

    x: Rows
    h_BF: Tensor
    errors_B: Tensor | None
    """Bounds on the errors of h; None where it is exact."""
    weights: tuple[Tensor, Tensor]
    norm_B: Tensor
    """Norms of the rows of x."""

    @classmethod
    def of(cls, params: Tensors, batch: Batch, ctx: Context) -> _Encoded:
        x_BD, x_low = rows.centred(batch.x_BD, input_bias(params))
        W_FD, b_F = weights = params["W_enc"], params["b_enc"]
        if ctx.encoder_dtype == torch.float32:
            return cls(
                Rows(x_BD, None), torch.addmm(b_F, x_BD, W_FD.T), None, weights, x_low.norm_F
            )
        W_low, b_low_F = rows.shadow_of(W_FD), b_F.to(rows.LOW)
        h_BF = torch.addmm(b_low_F, x_low.low_FD, W_low.low_FD.T)
        errors_B = rows.likely_errors(x_low, W_low, b_F)
        return cls(Rows(x_BD, x_low), h_BF, errors_B, weights, x_low.norm_F)

    def top(self, k: int, first: int | None) -> Entries:
        """The k largest of each row; the largest `first` of them are a group, the others another
        one."""
        if self.errors_B is None:
            return Entries.of_rows(choice.top(self.h_BF, k, first), first)
        arguments = (self.h_BF, self.errors_B, k, self.x.rows_BD, self.weights, first)
        return Entries.of_rows(choice.top_of_low(*arguments, only_open=True), first)

    def top_of_batch(self, n: int) -> BatchChosen:
        """The n largest of all."""
        if self.errors_B is None:
            return batch_choice.top(self.h_BF, n)
        return batch_choice.top_of_low(self.h_BF, self.errors_B, n, self.x.rows_BD, self.weights)


@dataclass(frozen=True)
class _Step:
    """A step's arguments, and its rows centred."""

    spec: AuxKSpec
    params: Tensors
    state: Tensors
    batch: Batch
    ctx: Context
    x: Rows
    norm_B: Tensor

    def decoder(self) -> Tensor:
        """What entries gather rows of: W_dec, or its copy in low precision."""
        W_FO = self.params["W_dec"]
        return W_FO if self.x.copy is None else rows.shadow_of(W_FO).low_FD

    def finite(self) -> tuple[Tensor, Tensor]:
        """Numbers that the loss has to show if they are not finite, since the choice and the target
        may not hold them: norms of rows, and biases."""
        return self.norm_B, self.params["b_enc"]


@torch.no_grad()
def topk(spec: TopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context) -> StepOutput:
    """`TopK.loss` with gradients; in Multi-TopK the k largest are a group, the next 3k another."""
    wide = spec.multi_topk_coefficient
    encoded = _Encoded.of(params, batch, ctx)
    entries = encoded.top(_most(spec, params["W_enc"].shape[0]), spec.k if wide else None)
    step = _Step(spec, params, state, batch, ctx, encoded.x, encoded.norm_B)
    # Lets go of the pre-activations.
    del encoded
    names = ("reconstruction", "multi_topk") if wide else ("reconstruction",)
    return _output(step, entries, Shares(last=wide or 1.0), names, 0)


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
    encoded, groups = _Encoded.of(params, batch, ctx), len(nesting.widths)
    chosen = encoded.top_of_batch(_wanted(ctx.scheduled.get("k", spec.k), batch.x_BD.shape[0]))
    step = _Step(spec, params, state, batch, ctx, encoded.x, encoded.norm_B)
    # Lets go of the pre-activations.
    del encoded
    entries = prefixes.by_prefix(chosen.entries, nesting.widths)
    shares = Shares(1 / groups, 1 / groups, nesting.detach_inner)
    names = ("reconstruction",) * min(groups, 2)
    return _output(step, entries, shares, names, groups - 1), chosen.level


def _output(
    step: _Step, entries: Entries, shares: Shares, names: tuple[str, ...], proper: int
) -> StepOutput:
    """All gradients; the terms of the inner prefixes and of the last one have `names`, and number
    `proper` (from 0) is the reconstruction that AuxK and the statistics speak of."""
    params = step.params
    dictionaries = params["W_enc"], params["W_dec"]
    found = reconstruction.reconstruct(
        *(entries, step.decoder(), params["b_dec"], step.batch.target_BO, shares, proper)
    )
    weights = (shares.inner, shares.last)
    losses = totals.losses(
        found.squares_BGT, step.finite(), step.state["variance"], weights, proper
    )
    total = segments.gradients(entries, found, step.x, dictionaries, losses.scale, proper + 1)
    terms = dict(zip(names, (losses.inner, losses.last), strict=False))
    if len(terms) == 1:
        terms = {"reconstruction": losses.loss}
    loss = losses.loss
    if step.spec.auxk_coefficient:
        rows_of, taken = (found.residual_BO, step.x.rows_BD), auxk.taken(step.spec, step.ctx)
        terms["auxk"] = losses.nothing
        if taken.latents:
            terms["auxk"] = add_auxiliary(total, step.spec, params, rows_of, taken, _largest)
            loss = loss + terms["auxk"]
    return StepOutput(
        loss=loss,
        terms=terms,
        grads=_gradients(params, total, Piece(found.to_bias, losses.scale)),
        state=step.state,
        stats=Stats(total.fired_F, losses.squared_error),
        to_target_BO=_to_target(step, found, losses.scale, detach_inner=shares.detach_inner),
    )


def _gradients(params: Tensors, total: DictionaryGradients, to_output: Piece) -> Tensors:
    """Gradients by parameter; `to_output` sums up to what the reconstruction adds to b_dec's, which
    is b_pre's too where there is no b_pre."""
    grads = {"W_enc": total.W_enc, "b_enc": total.b_enc, "W_dec": total.W_dec}
    to_input = Piece(params["W_enc"], total.b_enc, -1.0)
    if "b_pre" in params:
        return {**grads, "b_dec": columns([to_output]), "b_pre": columns([to_input])}
    return {**grads, "b_dec": columns([to_output, to_input])}


def _to_target(
    step: _Step, found: reconstruction.Reconstructed, scale: Tensor, *, detach_inner: bool
) -> Tensor | None:
    if not step.batch.target_gradient:
        return None
    rows = step.batch.target_BO.shape[0]
    return -scale * to_output(found.gradients_NO, rows, detach_inner=detach_inner)


def _wanted(k: float, rows: int) -> int:
    """Entries of a micro-batch that are chosen."""
    return max(1, round(k * rows))


def _most(spec: TopKSpec, latents: int) -> int:
    """Entries of a row that are chosen."""
    return min(spec.k * (4 if spec.multi_topk_coefficient else 1), latents)


def _largest(h_RA: Tensor, n: int) -> Tensor:
    """ReLU of each row's n largest, zero elsewhere."""
    if n >= h_RA.shape[1]:
        return h_RA.relu_()
    found, (count, width) = choice.top(h_RA, n), h_RA.shape
    first_R1 = torch.arange(0, count * width, width, device=h_RA.device)[:, None]
    at_N = (first_R1 + found.latents_BK).view(-1)
    # Added, for entries of value 0 may be at latents that were chosen. As a list: of matrices
    # torch's deterministic form copies strides from the host.
    kept_M = h_RA.new_zeros(h_RA.numel()).scatter_add_(0, at_N, found.values_BK.view(-1))
    return kept_M.view_as(h_RA)
