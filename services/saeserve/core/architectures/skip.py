"""A skip connection around any architecture: W_skip [O, D] maps the input to the target.

reconstruction = f W_dec + b_dec + x W_skip^T, so the dictionary explains what is left of the
target: its loss is taken on y - x W_skip^T, which lets the gradient reach W_skip. W_skip starts at
zero and is trained with the rest (Paulo, Shabalin, Belrose 2025, Transcoders Beat Sparse
Autoencoders for Interpretability, arXiv 2501.18823).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from saeserve.core.architectures import gradients
from saeserve.core.architectures.contract import (
    Architecture,
    Batch,
    Context,
    Dimensions,
    EvaluationForm,
    LossOutput,
    Permutation,
    Permuting,
    StepOutput,
    Tensors,
)
from saeserve.core.specs.architectures.base import ArchitectureSpec

W_SKIP = "W_skip"


class WithSkip:
    """`inner` with a skip connection; an architecture itself."""

    def __init__(self, inner: Architecture[Any]) -> None:
        self._inner = inner

    def unit_rows(self, spec: ArchitectureSpec) -> frozenset[str]:
        """Those of the inner architecture."""
        return self._inner.unit_rows(spec)

    def sample_rows(self, spec: ArchitectureSpec, dims: Dimensions) -> int:
        """As the inner architecture."""
        return self._inner.sample_rows(spec, dims)

    def scheduled(self, spec: ArchitectureSpec, step: int, steps: int) -> dict[str, float]:
        """As the inner architecture."""
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
        left_BO = batch.target_BO - batch.x_BD @ params[W_SKIP].T
        left = dataclasses.replace(batch, target_BO=left_BO)
        return self._inner.loss(spec, _inner(params), state, left, ctx)

    def gradients(
        self, spec: ArchitectureSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """Autograd of `loss`: a fast form of the inner architecture knows nothing of W_skip."""
        return gradients.by_autograd(
            lambda leaves: self.loss(spec, leaves, state, batch, ctx), params
        )

    def evaluation_form(
        self, spec: ArchitectureSpec, params: Tensors, state: Tensors
    ) -> EvaluationForm:
        """The inner form, and W_skip beside it."""
        form = self._inner.evaluation_form(spec, _inner(params), state)
        return dataclasses.replace(form, W_skip_OD=params[W_SKIP].clone())

    def permutation(
        self, spec: ArchitectureSpec, state: Tensors, steps_done: int
    ) -> Permutation | None:
        """That of the inner architecture; W_skip knows no latents."""
        if isinstance(self._inner, Permuting):
            return self._inner.permutation(spec, state, steps_done)
        return None


def _inner(params: Tensors) -> Tensors:
    return {name: value for name, value in params.items() if name != W_SKIP}
