"""The spec of BatchTopK."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field

from saeserve.core.specs.architectures.base import SelectingSpec
from saeserve.core.specs.base import refuse_together


class BatchTopKSpec(SelectingSpec):
    """BatchTopK (Bussmann, Leask, Nanda 2024, arXiv 2412.06410) with AuxK.

    k is a mean over rows and may be broken. `k_initial` anneals it linearly from there to k.
    `encoder_norm` is as in TopKSpec.
    """

    name: ClassVar[str] = "batchtopk"
    exported_activation: ClassVar[Literal["topk", "threshold", "relu"]] = "threshold"
    calibrates_threshold: ClassVar[bool] = True

    k: float = Field(default=32.0, gt=0)
    auxk_coefficient: float = Field(default=1 / 32, ge=0)
    b_dec_init: Literal["mean", "geometric_median"] = "geometric_median"
    k_initial: float | None = Field(default=None, gt=0)
    k_anneal_fraction: float = Field(default=0.8, ge=0, le=1)
    encoder_norm: float = Field(default=0.3, gt=0, le=1)

    @property
    def asked_l0(self) -> float:
        """k, a mean over the rows of a batch."""
        return self.k

    @property
    def active_latents(self) -> float:
        """k, where it ends."""
        return self.k

    @property
    def most_active_latents(self) -> float:
        """The larger end of the annealing."""
        return max(self.k, self.k_initial or 0)

    @property
    def starts_at_median(self) -> bool:
        """Whether `b_dec_init` says so."""
        return self.b_dec_init == "geometric_median"

    def k_of_step(self, step: int, steps: int) -> float:
        """k at `step` of `steps`: linear from k_initial to k over k_anneal_fraction."""
        if self.k_initial is None:
            return self.k
        span = self.k_anneal_fraction * steps
        done = min(1.0, step / span) if span else 1.0
        return self.k_initial + done * (self.k - self.k_initial)

    def check_width(self, d_sae: int) -> None:
        """k and k_initial are at most d_sae."""
        refuse_together(
            lambda: self.check_active("k", self.k, d_sae),
            lambda: self.check_active("k_initial", self.k_initial or 0, d_sae),
        )

    def aimed_at(self, target_l0: float | None) -> Self:
        """k, a mean over rows, is the target."""
        return self.model_copy(update={"k": self.k_at(self.k, target_l0)})
