"""The architecture contract: a spec plus pure functions over named tensors
(docs/DESIGN.md, "Architectures").

Shape suffixes: B rows of a (micro-)batch, D d_in, O d_out, F d_sae. In training form W_enc is
[F, D] and W_dec is [F, O], so that a latent is a contiguous row in both; exports transpose W_enc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from saeserve.core.ops.norms import row_norms
from saeserve.core.ops.rows import Tensors as Tensors


@dataclass(frozen=True)
class Batch:
    """Preprocessed rows; the target of an autoencoder or crosscoder is its input."""

    x_BD: Tensor
    target_BO: Tensor
    target_widths: tuple[int, ...] = ()
    """Widths of a crosscoder's sources, side by side in the target; () stands for one source."""
    target_gradient: bool = False
    """Whether a step returns the target's gradient as well, because the target depends on
    parameters."""


@dataclass(frozen=True)
class Dimensions:
    """Widths of the model, and what its schedules span."""

    d_in: int
    d_out: int
    d_sae: int
    target_widths: tuple[int, ...] = ()
    """Widths of the target's sources, as in Batch."""

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


def _no_numbers() -> Tensors:
    return {}


@dataclass(frozen=True)
class Context:
    """What a step knows in addition to parameters, state and batch."""

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
    dead_bound: int | None = None
    """At most so many latents are dead, as is known without waiting for an accelerator; None where
    they have to be counted."""
    numbers: Mapping[str, Tensor] = field(default_factory=_no_numbers)
    """`Recordable.numbers` as float64 scalars on the device, which hold in place of `step` and
    `scheduled`; empty in a step that is not recorded."""


@dataclass(frozen=True)
class Recordable:
    """What the gradients of a step depend on besides tensors. Steps of equal contexts (their
    tensors aside) start the same operations, so that a graph recorded of one is right for all."""

    context: Context
    """Stands for the step's own: without what `gradients` does not read."""
    numbers: Mapping[str, float]
    """What may differ from step to step; `gradients` reads it from `Context.numbers`."""


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

    @classmethod
    def of(cls, terms: Tensors, state: Tensors, f_BF: Tensor, squared_error: Tensor) -> LossOutput:
        """The sum of the terms, and the statistics of features and reconstruction."""
        stats = Stats((f_BF.detach() > 0).sum(0), squared_error.detach())
        return cls(torch.stack(list(terms.values())).sum(), terms, state, stats)


@dataclass(frozen=True)
class StepOutput:
    """What the trainer receives: gradients, not a graph."""

    loss: Tensor
    terms: Tensors
    grads: Tensors
    state: Tensors
    stats: Stats
    to_target_BO: Tensor | None = None
    """d loss / d target where the batch asks for it, else None."""


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

    @property
    def activation(self) -> Literal["topk", "threshold", "relu"]:
        """The kind of activation that is exported."""
        if self.threshold_F is not None:
            return "threshold"
        return "relu" if self.k is None else "topk"


@dataclass(frozen=True)
class Permutation:
    """A new order of the latents, applied to all that has a row for each of them."""

    order_F: Tensor
    """int64 [F]: the latent that takes each place."""
    names: frozenset[str]
    """Parameters, with their moments, and state that have a row for each latent."""


@dataclass(frozen=True)
class Revival:
    """Dead latents, and the rows whose directions they take (`training.resampling` draws them)."""

    dead_F: Tensor
    """bool [F]: N of them."""
    rows: Batch
    """One for each, in order."""
    fraction: float
    """Usual length of a revived encoder row, as a share of the live latents' mean norm."""

    def of_live(self, values: Tensor) -> Tensor:
        """Rows of [F, ...] of live latents; of all where none lives."""
        live_F = ~self.dead_F
        return values[live_F] if bool(live_F.any()) else values

    def mean_norm(self, W_FX: Tensor) -> Tensor:
        """The mean norm of the live latents' rows."""
        return row_norms(self.of_live(W_FX)).mean()
