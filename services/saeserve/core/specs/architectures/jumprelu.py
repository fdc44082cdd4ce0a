"""The spec of JumpReLU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field

from saeserve.core.specs.architectures.base import PenaltySpec, StepCost
from saeserve.errors import SpecError

LEAST_SAMPLE_ROWS = 4_096
ROWS_PER_FIRING = 10
"""Sample rows in which each latent fires at the start, so that quantiles mean something."""
STRONG_COUNT_PENALTY = 1 / 16
"""Price of an active latent that leaves few active, as a share of a row's mean squared norm."""


class JumpReluSpec(PenaltySpec):
    """JumpReLU with tanh penalty (Anthropic, Circuits Updates, January 2025), or another:

    `l0` is the penalty of Rajamanoharan et al. 2024 (arXiv 2407.14435), whose own constants are
    the preset `gemma-scope`; `quadratic` holds L0 at train.target_l0. `frequency_scale`
    makes firing dear for latents that fire in more than about this share of rows.
    """

    name: ClassVar[str] = "jumprelu"
    exact_choice: ClassVar[Literal["never", "compiled", "always"]] = "compiled"
    exported_activation: ClassVar[Literal["topk", "threshold", "relu"]] = "threshold"
    latent_vectors: ClassVar[tuple[str, ...]] = ("b_enc", "t")
    # h, f, c f n, its tanh, ReLU(theta - h), and the gradients of f and h; 6.7 were measured.
    cost: ClassVar[StepCost] = StepCost(autograd_tensors=7, device_tensors=3, compiled="dense")
    learning_rate: ClassVar[float] = 0.05
    quantile_latents: ClassVar[int] = 1_024

    sparsity_coefficient: float = Field(default=20.0, ge=0)
    pre_act_coefficient: float = Field(default=3e-6, ge=0)
    tanh_scale: float = Field(default=4.0, gt=0)
    bandwidth: float = Field(default=2.0, gt=0)
    initial_log_threshold: float = 0.1
    initial_l0: float | None = Field(default=None, gt=0)
    ste_to_input: bool = False
    literal_pre_act: bool = False
    penalty: Literal["tanh", "l0", "quadratic"] = "tanh"
    frequency_scale: float | None = Field(default=None, gt=0)
    unit_norm: bool = False

    @property
    def gpu_kernels(self) -> bool:
        """All but AuxK."""
        return not self.auxk_coefficient

    @property
    def first_factor(self) -> float:
        """1: under target_l0 penalties are quadratic, and the factor divides their goal."""
        return 1.0

    def strongest(self, mean_norm: float) -> float:
        """The penalty is a price for each active latent, in units of squared errors."""
        return STRONG_COUNT_PENALTY * mean_norm**2

    def sample_rows(self, d_sae: int) -> int:
        """max(4096, 10 d_sae / initial_l0) rows, for the quantiles of b_enc."""
        return max(LEAST_SAMPLE_ROWS, math.ceil(ROWS_PER_FIRING * d_sae / self.resolved_initial_l0))

    @property
    def resolved_initial_l0(self) -> float:
        """`initial_l0`; raises SpecError where it is not resolved."""
        if self.initial_l0 is None:
            field = "train.jumprelu.initial_l0"
            raise SpecError(field, "is not resolved", remedy="resolve the spec")
        return self.initial_l0

    def resolved(self, d_in: int, d_sae: int, target_l0: float | None) -> Self:
        """`initial_l0` too. A path may rise, but a penalty only lowers: it starts above the
        target."""
        spec = super().resolved(d_in, d_sae, target_l0)
        wanted = self.initial_l0 or max(min(10_000, d_in), 2 * (target_l0 or 0))
        return spec.model_copy(update={"initial_l0": min(float(wanted), d_sae / 2)})

    def resolved_by(self, d_sae: int) -> Mapping[str, str]:
        """Rules by which `resolved` fills the fields, in words."""
        law = "min(10,000, width of the data), twice target_l0 if more, d_sae / 2 at most"
        return {**super().resolved_by(d_sae), "initial_l0": law}

    def aimed_at(self, target_l0: float | None) -> Self:
        """Return the spec unchanged. Raises SpecError for "quadratic" without a target."""
        if self.penalty == "quadratic" and target_l0 is None:
            raise SpecError(
                "train.target_l0",
                'is what jumprelu.penalty = "quadratic" needs',
                remedy="set target_l0",
            )
        return super().aimed_at(target_l0)
