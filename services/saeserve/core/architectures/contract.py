"""The architecture contract: a spec plus pure functions over named tensors
(docs/DESIGN.md, "Architectures").

Shape suffixes: B rows of a (micro-)batch, D d_in, O d_out, F d_sae. In training form W_enc is
[F, D] and W_dec is [F, O], so that a latent is a contiguous row in both; exports transpose W_enc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from saeserve.core.ops.rows import RowGradient as RowGradient
from saeserve.core.ops.rows import Tensors as Tensors
from saeserve.core.specs.architectures.base import ArchitectureSpec

SpecT_contra = TypeVar("SpecT_contra", bound=ArchitectureSpec, contravariant=True)


@dataclass(frozen=True)
class Batch:
    """Preprocessed rows; the target of an autoencoder or crosscoder is its input."""

    x_BD: Tensor
    target_BO: Tensor
    target_widths: tuple[int, ...] = ()
    """Widths of a crosscoder's sources, side by side in the target; () stands for one source."""


@dataclass(frozen=True)
class Dimensions:
    """Widths of the model, and what its schedules span."""

    d_in: int
    d_out: int
    d_sae: int
    target_widths: tuple[int, ...] = ()
    """As in Batch."""

    def batch(self, rows_BC: Tensor) -> Batch:
        """Rows of the data as a batch: C is d_in, or d_in + d_out where the target is another
        source."""
        if rows_BC.shape[1] == self.d_in:
            return Batch(rows_BC, rows_BC, self.target_widths)
        x_BD, target_BO = rows_BC.split_with_sizes([self.d_in, self.d_out], dim=1)
        return Batch(x_BD.contiguous(), target_BO.contiguous(), self.target_widths)


@dataclass(frozen=True)
class Control:
    """What `target_l0`'s controller asks of a penalty in this step; scalars on the device."""

    factor: Tensor
    """Multiplies the penalty's full weight; more means sparser."""
    l0: Tensor
    """The mean L0 that the path asks for now."""


class Collective(Protocol):
    """Sums over ranks; the identity on one."""

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over ranks."""
        ...


@dataclass(frozen=True)
class Context:
    """What a step knows besides parameters, state and batch."""

    step: int
    """Steps done before this one, from 0."""
    steps: int
    """Steps of the whole run."""
    scheduled: Mapping[str, float]
    """Current values of the architecture's schedules, e.g. the penalty's weight."""
    dead_F: Tensor
    """bool [F]: latents that neither fired nor were resampled within the dead window."""
    seed: int
    """Draws are keyed by (seed, step, purpose): see ops.draws."""
    collective: Collective
    encoder_dtype: torch.dtype = torch.float32
    """Type of the encoder GEMM; everything else is in the parameters' type."""
    control: Control | None = None
    """Set where a controller replaces the schedule of the penalty's weight."""


@dataclass(frozen=True)
class Stats:
    """What a step saw, on the device, without synchronisation."""

    fired_F: Tensor
    """int64 [F]: rows in which each latent was active."""
    squared_error: Tensor
    """Sum over rows of |target - reconstruction|^2."""


@dataclass(frozen=True)
class LossOutput:
    """Loss as in the paper; `terms` sum to `loss` (mean over rows, summed over dimensions)."""

    loss: Tensor
    terms: Tensors
    state: Tensors
    stats: Stats


@dataclass(frozen=True)
class StepOutput:
    """What the trainer receives: gradients, not a graph."""

    loss: Tensor
    terms: Tensors
    grads: dict[str, Tensor | RowGradient]
    state: Tensors
    stats: Stats


@dataclass(frozen=True)
class EvaluationForm:
    """Per row, no batch statistics: what the export folds.

    f = act(x' W_enc^T + b_enc), reconstruction = f W_dec + b_dec, with x' centred and scaled.
    `threshold_F` is set for threshold models; otherwise `k` is set for TopK, neither for ReLU.
    `W_skip_OD` is set where a skip connection adds x' W_skip^T to the reconstruction.
    """

    W_enc_FD: Tensor
    b_enc_F: Tensor
    W_dec_FO: Tensor
    b_dec_O: Tensor
    threshold_F: Tensor | None = None
    k: int | None = None
    W_skip_OD: Tensor | None = None


class Architecture(Protocol[SpecT_contra]):
    """One architecture: stateless, registered by its spec's name in `registry`."""

    def unit_rows(self, spec: SpecT_contra) -> frozenset[str]:
        """Parameters whose rows stay at unit norm: the trainer projects and renormalises."""
        ...

    def initialise(
        self, spec: SpecT_contra, dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
    ) -> tuple[Tensors, Tensors]:
        """Parameters and state from a preprocessed sample of rows."""
        ...

    def sample_rows(self, spec: SpecT_contra, dims: Dimensions) -> int:
        """Rows that `initialise` wants in its sample."""
        ...

    def scheduled(self, spec: SpecT_contra, step: int, steps: int) -> dict[str, float]:
        """Values of the architecture's own schedules at `step` of `steps`."""
        ...

    def loss(
        self, spec: SpecT_contra, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """The loss as written in the paper; differentiable by autograd."""
        ...

    def gradients(
        self, spec: SpecT_contra, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """The gradients of `loss`: by autograd (`gradients.by_autograd`) or a fast form."""
        ...

    def evaluation_form(
        self, spec: SpecT_contra, params: Tensors, state: Tensors
    ) -> EvaluationForm:
        """The per-row form that evaluations and exports use."""
        ...


@dataclass(frozen=True)
class Permutation:
    """A new order of the latents, applied to all that has a row for each of them."""

    order_F: Tensor
    """int64 [F]: the latent that takes each place."""
    names: frozenset[str]
    """Parameters, with their moments, and state that have a row for each latent."""


@runtime_checkable
class Permuting(Protocol):
    """An architecture that reorders its latents while it trains."""

    def permutation(
        self, spec: ArchitectureSpec, state: Tensors, steps_done: int
    ) -> Permutation | None:
        """The order to take after `steps_done` steps, a pure function of its arguments; None
        leaves it as it is. The trainer applies it to parameters, moments, state and counters."""
        ...
