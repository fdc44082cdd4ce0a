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


class JumpReluSpec(AuxKSpec):
    """JumpReLU with tanh penalty (Anthropic, Circuits Updates, January 2025)."""

    name: ClassVar[str] = "jumprelu"

    sparsity_coefficient: float = Field(default=20.0, ge=0)
    pre_act_coefficient: float = Field(default=3e-6, ge=0)
    tanh_scale: float = Field(default=4.0, gt=0)
    bandwidth: float = Field(default=2.0, gt=0)
    initial_log_threshold: float = 0.1
    initial_l0: float | None = Field(default=None, gt=0)
    ste_to_input: bool = False
    literal_pre_act: bool = False


ARCHITECTURE_SPECS: dict[str, type[ArchitectureSpec]] = {
    spec.name: spec for spec in (TopKSpec, JumpReluSpec)
}
