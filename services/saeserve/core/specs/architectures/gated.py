"""The spec of the gated SAE."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from saeserve.core.specs.architectures.base import PenaltySpec, StepCost


class GatedSpec(PenaltySpec):
    """Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014).

    The paper sweeps lambda for each site; ours is for rows with E|x| = sqrt(d_in).
    """

    name: ClassVar[str] = "gated"
    exported_activation: ClassVar[Literal["topk", "threshold", "relu"]] = "threshold"
    latent_vectors: ClassVar[tuple[str, ...]] = ("b_gate", "b_mag", "r_mag")
    has_input_bias: ClassVar[bool] = True
    # A second reconstruction and a bias in the input: eight products. Tensors: w x, both
    # pre-activations, f, ReLU(pi) and two gradients; 7.0 were measured.
    cost: ClassVar[StepCost] = StepCost(
        encoder_products=3, other_products=5, autograd_tensors=7, device_tensors=4
    )
    learning_rate: ClassVar[float] = 0.09

    sparsity_coefficient: float = Field(default=5.0, ge=0)
    sparsity_warmup_fraction: float = Field(default=0.05, ge=0, le=1)

    @property
    def gpu_kernels(self) -> bool:
        """All but AuxK."""
        return not self.auxk_coefficient
