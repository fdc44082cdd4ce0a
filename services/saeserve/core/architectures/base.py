"""The base of every architecture: a spec plus pure functions over named tensors.

A new architecture writes `initialise` and `loss`; everything else has a default that fits the usual
parameters W_enc [F, D], W_dec [F, O], b_dec [O], those that its spec calls `latent_vectors`, and,
where its spec has an input bias, a transcoder's b_pre [D].
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from saeserve.core.architectures import continuing
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    Dimensions,
    EvaluationForm,
    LossOutput,
    Permutation,
    Recordable,
    Revival,
    StepOutput,
    Tensors,
)
from saeserve.core.architectures.initialisation import input_bias, is_autoencoder
from saeserve.core.ops.norms import renormalise_rows_
from saeserve.core.specs.architectures.base import ArchitectureSpec

SpecT = TypeVar("SpecT", bound=ArchitectureSpec)

_TARGET = "target"
"""Names the target among the parameters; no parameter is called so."""


class Architecture(ABC, Generic[SpecT]):
    """One architecture: stateless, registered by its spec's name in `registry`."""

    def unit_rows(self, spec: SpecT) -> frozenset[str]:
        """Parameters whose rows stay at unit norm: the trainer projects and renormalises."""
        return frozenset({"W_dec"})

    def scheduled(self, spec: SpecT, step: int, steps: int) -> dict[str, float]:
        """Values of the architecture's own schedules at `step` of `steps`."""
        return {}

    @abstractmethod
    def initialise(
        self, spec: SpecT, dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
    ) -> tuple[Tensors, Tensors]:
        """Parameters and state from a preprocessed sample of `spec.sample_rows` rows."""

    @abstractmethod
    def loss(
        self, spec: SpecT, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """The loss as written in the paper, dense; differentiable by autograd."""

    def autograd_loss(
        self, spec: SpecT, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """`loss`, or a form of it that costs autograd less and is tested against it."""
        return self.loss(spec, params, state, batch, ctx)

    def gradients(
        self, spec: SpecT, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """The gradients of `loss`: autograd's, or those of a fast form."""

        def loss(leaves: Tensors, target_BO: Tensor) -> LossOutput:
            rows = dataclasses.replace(batch, target_BO=target_BO)
            return self.autograd_loss(spec, leaves, state, rows, ctx)

        if batch.target_gradient:
            return with_target(loss, params, batch.target_BO)
        return by_autograd(lambda leaves: loss(leaves, batch.target_BO), params)

    def recordable(self, spec: SpecT, ctx: Context) -> Recordable | None:
        """What `gradients` by a GPU's kernels depends on, for steps recorded as graphs; None where
        it may not be recorded: it waits for the device, copies to it, or reads `ctx.step`."""
        return None

    def permutation(self, spec: SpecT, state: Tensors, steps_done: int) -> Permutation | None:
        """The order that latents take after `steps_done` steps, a pure function of its arguments;
        None leaves it as it is. The trainer applies it to parameters, moments, state and
        counters."""
        return None

    def evaluation_form(self, spec: SpecT, params: Tensors, state: Tensors) -> EvaluationForm:
        """The per-row form that evaluations and exports use; by default that of ReLU."""
        return form_of(spec, params)

    def from_form(
        self, spec: SpecT, form: EvaluationForm, params: Tensors, state: Tensors
    ) -> tuple[Tensors, Tensors]:
        """`params` and `state` of a fresh initialisation with what `form` says in their place: the
        inverse of `evaluation_form`, see `continuing`.

        Raises SpecError for a form with another activation than the spec's.
        """
        continuing.check_activation(spec, form)
        common = continuing.dictionaries(form, params)
        vectors = self.vectors_of(spec, form, {**params, **common})
        return {**params, **common, **vectors}, state

    def vectors_of(self, spec: SpecT, form: EvaluationForm, params: Tensors) -> Tensors:
        """The latent vectors that give `form`'s, where `params` has the dictionaries of `form`."""
        return {"b_enc": continuing.encoder_bias(spec, form, params, "b_enc")}

    def centred(self, spec: SpecT, params: Tensors, rows: Batch) -> tuple[Tensor, Tensor]:
        """Inputs and targets less the biases: the directions that latents take."""
        return rows.x_BD - location(params, rows), rows.target_BO - params["b_dec"]

    def revive(
        self, spec: SpecT, params: Tensors, state: Tensors, form: EvaluationForm, new: Revival
    ) -> Tensors:
        """What takes the dead latents' places: [N, ...] of each parameter that has a row for each.

        Encoder rows have the direction of an input, decoder rows that of its target at the mean
        norm of the live ones; vectors are 0, and an encoder that does not subtract a bias gets what
        subtracting it would add. `form` is that of `params` and `state`.
        """
        x_ND, target_NO = self.centred(spec, params, new.rows)
        norm_N = self.revived_norms(spec, params, state, form, new)
        W_enc_ND = norm_N[:, None] * renormalise_rows_(x_ND.clone())
        W_dec_NO = new.mean_norm(params["W_dec"]) * renormalise_rows_(target_NO.clone())
        vectors = {name: x_ND.new_zeros(len(x_ND)) for name in spec.latent_vectors}
        if not spec.has_input_bias:
            vectors["b_enc"] -= W_enc_ND @ location(params, new.rows)
        return {"W_enc": W_enc_ND, "W_dec": W_dec_NO, **vectors}

    def revived_norms(
        self, spec: SpecT, params: Tensors, state: Tensors, form: EvaluationForm, new: Revival
    ) -> Tensor:
        """Norms of the encoder rows [N] that revived latents get: `fraction` of the live ones'."""
        usual = new.fraction * new.mean_norm(params["W_enc"])
        return usual.expand(new.rows.x_BD.shape[0])


def location(params: Tensors, rows: Batch) -> Tensor:
    """Where inputs are centred: b_pre, or b_dec where the target is the input, else nowhere."""
    if "b_pre" in params:
        return params["b_pre"]
    same = is_autoencoder(rows.x_BD, rows.target_BO)
    return params["b_dec"] if same else torch.zeros_like(rows.x_BD[0])


def form_of(
    spec: ArchitectureSpec,
    params: Tensors,
    *,
    k: int | None = None,
    threshold_F: Tensor | None = None,
) -> EvaluationForm:
    """The form of the usual parameters; the bias b that is subtracted from the input is folded into
    b_enc: b_enc - W_enc b."""
    b_enc_F = params["b_enc"].clone()
    if spec.has_input_bias:
        b_enc_F = params["b_enc"] - params["W_enc"] @ input_bias(params)
    return EvaluationForm(
        W_enc_FD=params["W_enc"].clone(),
        b_enc_F=b_enc_F,
        W_dec_FO=params["W_dec"].clone(),
        b_dec_O=params["b_dec"].clone(),
        threshold_F=threshold_F,
        k=k,
    )


def by_autograd(loss: Callable[[Tensors], LossOutput], params: Tensors) -> StepOutput:
    """Differentiate `loss` at `params`; a parameter that it does not use has gradient zero.

    Nothing that is returned holds the graph.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad():
        output = loss(leaves)
    values = torch.autograd.grad(
        output.loss, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return StepOutput(
        loss=output.loss.detach(),
        terms={name: term.detach() for name, term in output.terms.items()},
        grads={name: value.contiguous() for name, value in zip(leaves, values, strict=True)},
        state={name: value.detach() for name, value in output.state.items()},
        stats=output.stats,
    )


def with_target(
    loss: Callable[[Tensors, Tensor], LossOutput], params: Tensors, target_BO: Tensor
) -> StepOutput:
    """`by_autograd` of a loss at `params` and `target_BO`, and the target's gradient."""

    def of_all(leaves: Tensors) -> LossOutput:
        parameters = {name: leaves[name] for name in params}
        return loss(parameters, leaves[_TARGET])

    output = by_autograd(of_all, {**params, _TARGET: target_BO})
    to_target_BO = output.grads.pop(_TARGET)
    return dataclasses.replace(output, to_target_BO=to_target_BO)
