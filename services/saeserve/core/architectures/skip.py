"""A skip connection around any architecture: W_skip [O, D] maps the input to the target.

reconstruction = f W_dec + b_dec + x W_skip^T, so the dictionary explains what is left of the
target: its loss is taken on y - x W_skip^T, which lets the gradient reach W_skip. W_skip starts at
zero and is trained with the rest (Paulo, Shabalin, Belrose 2025, Transcoders Beat Sparse
Autoencoders for Interpretability, arXiv 2501.18823). Its gradient is -(d loss / d target)^T x, of
which the inner step, fast or not, knows the first factor.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from saeserve.core.architectures.base import Architecture
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
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.specs.architectures.base import ArchitectureSpec

W_SKIP = "W_skip"


class Products:
    """What a skip connection multiplies, in the parameters' type: neither product grows with
    d_sae."""

    def __init__(self, W_OD: Tensor, x_BD: Tensor) -> None:
        self._W_OD, self._x_BD = W_OD, x_BD

    def explained(self) -> Tensor:
        """x W^T, [B, O]."""
        return self._x_BD @ self._W_OD.T

    def gradient(self, to_target_BO: Tensor) -> Tensor:
        """W's gradient [O, D], from that of the target, from which x W^T is subtracted."""
        return -(to_target_BO.T @ self._x_BD)


class WithSkip(Architecture[ArchitectureSpec]):
    """`inner` with a skip connection; an architecture itself."""

    def __init__(self, inner: Architecture[Any]) -> None:
        self._inner = inner

    def unit_rows(self, spec: ArchitectureSpec) -> frozenset[str]:
        """Names of the inner architecture's parameters with unit rows."""
        return self._inner.unit_rows(spec)

    def scheduled(self, spec: ArchitectureSpec, step: int, steps: int) -> dict[str, float]:
        """Scheduled values of the inner architecture."""
        return self._inner.scheduled(spec, step, steps)

    def initialise(
        self,
        spec: ArchitectureSpec,
        dims: Dimensions,
        sample_ND: Tensor,
        target_NO: Tensor,
        seed: int,
    ) -> tuple[Tensors, Tensors]:
        """The inner architecture's start, and W_skip = 0."""
        params, state = self._inner.initialise(spec, dims, sample_ND, target_NO, seed)
        return {**params, W_SKIP: sample_ND.new_zeros(dims.d_out, dims.d_in)}, state

    def loss(
        self, spec: ArchitectureSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """The inner loss on y - x W_skip^T; its squared error is that of the whole."""
        return self._inner.loss(spec, _inner(params), state, _left(params, batch), ctx)

    def autograd_loss(
        self, spec: ArchitectureSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """The inner loss on y - x W_skip^T."""
        return self._inner.autograd_loss(spec, _inner(params), state, _left(params, batch), ctx)

    @torch.no_grad()
    def gradients(
        self, spec: ArchitectureSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """The inner gradients on y - x W_skip^T, and W_skip's, which is one product more."""
        products = _products(params[W_SKIP], batch, ctx)
        left_BO = batch.target_BO - products.explained()
        left = dataclasses.replace(batch, target_BO=left_BO, target_gradient=True)
        output = self._inner.gradients(spec, _inner(params), state, left, ctx)
        to_skip_OD = products.gradient(self._target_gradient(output))
        grads = {**output.grads, W_SKIP: to_skip_OD}
        return dataclasses.replace(output, grads=grads, to_target_BO=None)

    def _target_gradient(self, output: StepOutput) -> Tensor:
        if output.to_target_BO is None:
            raise TypeError(
                f"{type(self._inner).__name__}.gradients leaves out the target's gradient, which "
                "W_skip's is made of; return it where `batch.target_gradient` is set"
            )
        return output.to_target_BO

    def evaluation_form(
        self, spec: ArchitectureSpec, params: Tensors, state: Tensors
    ) -> EvaluationForm:
        """The inner form, and W_skip."""
        form = self._inner.evaluation_form(spec, _inner(params), state)
        return dataclasses.replace(form, W_skip_OD=params[W_SKIP].clone())

    def from_form(
        self, spec: ArchitectureSpec, form: EvaluationForm, params: Tensors, state: Tensors
    ) -> tuple[Tensors, Tensors]:
        """Start from the form with the inner architecture, and with its W_skip if it has one."""
        inner, state = self._inner.from_form(spec, form, _inner(params), state)
        W_skip = params[W_SKIP]
        if form.W_skip_OD is not None:
            W_skip = form.W_skip_OD.to(W_skip, copy=True)
        return {**inner, W_SKIP: W_skip}, state

    def centred(
        self, spec: ArchitectureSpec, params: Tensors, rows: Batch
    ) -> tuple[Tensor, Tensor]:
        """Call the inner architecture on y - x W_skip^T."""
        return self._inner.centred(spec, _inner(params), _left(params, rows))

    def revive(
        self,
        spec: ArchitectureSpec,
        params: Tensors,
        state: Tensors,
        form: EvaluationForm,
        new: Revival,
    ) -> Tensors:
        """Call the inner architecture on y - x W_skip^T."""
        left = dataclasses.replace(new, rows=_left(params, new.rows))
        return self._inner.revive(spec, _inner(params), state, form, left)

    def recordable(self, spec: ArchitectureSpec, ctx: Context) -> Recordable | None:
        """That of the inner architecture."""
        return self._inner.recordable(spec, ctx)

    def permutation(
        self, spec: ArchitectureSpec, state: Tensors, steps_done: int
    ) -> Permutation | None:
        """That of the inner architecture; W_skip has no row for a latent."""
        return self._inner.permutation(spec, state, steps_done)


def _inner(params: Tensors) -> Tensors:
    return {name: value for name, value in params.items() if name != W_SKIP}


def _left(params: Tensors, batch: Batch) -> Batch:
    """What the inner architecture explains."""
    left_BO = batch.target_BO - batch.x_BD @ params[W_SKIP].T
    return dataclasses.replace(batch, target_BO=left_BO)


def _products(W_OD: Tensor, batch: Batch, ctx: Context) -> Products:
    """Choose the device's products where the step may multiply in a lower type."""
    low = ctx.encoder_dtype != torch.float32
    if not (low and usable_on_device(W_OD, batch.x_BD, batch.target_BO)):
        return Products(W_OD, batch.x_BD)
    # Imports Triton, which is missing elsewhere.
    from saeserve.core.architectures.skip_on_device import DeviceProducts

    return DeviceProducts(W_OD, batch.x_BD, ctx.encoder_dtype)
