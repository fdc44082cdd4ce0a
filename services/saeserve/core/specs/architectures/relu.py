"""The spec of ReLU."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from saeserve.core.specs.architectures.base import PenaltySpec, StepCost


class ReluSpec(PenaltySpec):
    """ReLU with L1 weighted by decoder norms (Anthropic, Circuits Updates, April 2024).

    lambda = 5 warmed over the first 5 % of the run, decoder rows of norm 0.05 .. 1. `unit_norm`
    keeps them at 1: the plain L1 of Bricken et al. 2023.
    """

    name: ClassVar[str] = "relu"
    # h, f and their gradients; 3.8 were measured.
    cost: ClassVar[StepCost] = StepCost(autograd_tensors=4, device_tensors=2)
    # Under L1 biases move as far as rows are long, hence the high rate.
    learning_rate: ClassVar[float] = 0.26

    sparsity_coefficient: float = Field(default=5.0, ge=0)
    sparsity_warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    decoder_norm: float = Field(default=0.1, ge=0.05, le=1)
    unit_norm: bool = False

    @property
    def gpu_kernels(self) -> bool:
        """All but AuxK."""
        return not self.auxk_coefficient
