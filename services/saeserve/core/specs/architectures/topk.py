"""The spec of TopK."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field

from saeserve.core.specs.architectures.base import SelectingSpec
from saeserve.errors import SpecError


class TopKSpec(SelectingSpec):
    """TopK with AuxK (Gao et al. 2024, arXiv 2406.04093, sections 2.3 and A.2).

    `encoder_norm` is the norm of W_enc's rows at the start; the paper's is 1, that of W_dec's rows.
    Shorter rows turn further in a step and train better in the same steps
    (DECISIONS.md, "TopK and BatchTopK start with a short encoder").
    """

    name: ClassVar[str] = "topk"
    exported_activation: ClassVar[Literal["topk", "threshold", "relu"]] = "topk"

    k: int = Field(default=32, ge=1)
    auxk_coefficient: float = Field(default=1 / 32, ge=0)
    multi_topk_coefficient: float = Field(default=0.0, ge=0)
    b_dec_init: Literal["mean", "geometric_median"] = "geometric_median"
    encoder_norm: float = Field(default=0.3, gt=0, le=1)

    @property
    def asked_l0(self) -> float:
        """k, which no row exceeds."""
        return float(self.k)

    @property
    def active_latents(self) -> float:
        """k, and four times as many for Multi-TopK."""
        return self.k * (4 if self.multi_topk_coefficient else 1)

    @property
    def computes_few_entries(self) -> bool:
        """With one group of chosen entries; two groups need the values of all."""
        return not self.multi_topk_coefficient

    @property
    def starts_at_median(self) -> bool:
        """Whether `b_dec_init` says so."""
        return self.b_dec_init == "geometric_median"

    def check_width(self, d_sae: int) -> None:
        """k is at most d_sae."""
        self.check_active("k", self.k, d_sae)

    def aimed_at(self, target_l0: float | None) -> Self:
        """k is the target, which must be whole."""
        k = self.k_at(self.k, target_l0)
        if k != int(k):
            raise SpecError(
                "train.target_l0",
                f"{k:g} is not whole, and topk has as many latents in every row",
                remedy="choose a whole number, or batchtopk",
            )
        return self.model_copy(update={"k": int(k)})
