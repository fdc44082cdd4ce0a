"""Specs of the architectures: their own hyper-parameters and nothing else.

Constants and their sources: the class docstrings.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from saeserve.core.specs.base import Spec


class ArchitectureSpec(Spec):
    """Base of the architecture specs; `name` is the case in the API's oneof and in the registry."""

    name: ClassVar[str]


class AuxKSpec(ArchitectureSpec):
    """Base of the specs that may add AuxK; off unless a subclass says otherwise."""

    k_aux: int | None = Field(default=None, ge=1)
    auxk_coefficient: float = Field(default=0.0, ge=0)


class TopKSpec(AuxKSpec):
    """TopK with AuxK (Gao et al. 2024, arXiv 2406.04093, sections 2.3 and A.2)."""

    name: ClassVar[str] = "topk"

    k: int = Field(default=32, ge=1)
    auxk_coefficient: float = Field(default=1 / 32, ge=0)
    multi_topk_coefficient: float = Field(default=0.0, ge=0)
    b_dec_init: Literal["mean", "geometric_median"] = "geometric_median"


class PenaltySpec(AuxKSpec):
    """Base of the specs whose sparsity comes from a weighted penalty, which target_l0 controls."""

    sparsity_coefficient: float = Field(ge=0)


class ReluSpec(PenaltySpec):
    """ReLU with L1 weighted by decoder norms (Anthropic, Circuits Updates, April 2024).

    lambda = 5 warmed over the first 5 % of the run, decoder rows of norm 0.05 .. 1. `unit_norm`
    keeps them at 1: the plain L1 of Bricken et al. 2023.
    """

    name: ClassVar[str] = "relu"

    sparsity_coefficient: float = Field(default=5.0, ge=0)
    sparsity_warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    decoder_norm: float = Field(default=0.1, ge=0.05, le=1)
    unit_norm: bool = False


class GatedSpec(PenaltySpec):
    """Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014).

    The paper sweeps lambda for each site; ours is for rows with E|x| = sqrt(d_in).
    """

    name: ClassVar[str] = "gated"

    sparsity_coefficient: float = Field(default=5.0, ge=0)
    sparsity_warmup_fraction: float = Field(default=0.05, ge=0, le=1)


class JumpReluSpec(PenaltySpec):
    """JumpReLU with tanh penalty (Anthropic, Circuits Updates, January 2025), or another:

    `l0` is the penalty of Rajamanoharan et al. 2024 (arXiv 2407.14435), whose own constants are
    `published.rajamanoharan_2024`; `quadratic` holds L0 at train.target_l0. `frequency_scale`
    adds a penalty on latents that fire more often than this share of rows.
    """

    name: ClassVar[str] = "jumprelu"

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


ARCHITECTURE_SPECS: dict[str, type[ArchitectureSpec]] = {
    spec.name: spec for spec in (TopKSpec, JumpReluSpec, ReluSpec, GatedSpec)
}
