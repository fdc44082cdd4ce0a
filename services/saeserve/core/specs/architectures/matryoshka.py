"""The spec of Matryoshka."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Self

from pydantic import Field

from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.base import refuse_together
from saeserve.errors import SpecError


class MatryoshkaSpec(BatchTopKSpec):
    """Matryoshka on BatchTopK (Bussmann, Nabeshima, Karvonen, Nanda 2025, arXiv 2503.17547).

    `widths` of the nested prefixes ascend, the last of them d_sae; those of `prefix_widths` when
    empty. Detached inner levels, sorting and annealing are what scored best on SynthSAEBench.
    `encoder_norm` is 1: prefixes that all levels share are better off where steps turn them less.
    """

    name: ClassVar[str] = "matryoshka"

    widths: tuple[int, ...] = ()
    detach_inner: bool = False
    sort_by_frequency: bool = False
    sort_every_steps: int = Field(default=20, ge=1)
    encoder_norm: float = Field(default=1.0, gt=0, le=1)

    @property
    def reconstructions(self) -> int:
        """One for each prefix."""
        return len(self.widths) or 1

    @property
    def resolved_widths(self) -> tuple[int, ...]:
        """`widths`; raises SpecError where they are not resolved."""
        if not self.widths:
            field = "train.matryoshka.widths"
            raise SpecError(field, "is not resolved", remedy="resolve the spec")
        return self.widths

    def resolved(self, d_in: int, d_sae: int, target_l0: float | None) -> Self:
        """`widths` too."""
        spec = super().resolved(d_in, d_sae, target_l0)
        return spec.model_copy(update={"widths": self.widths or prefix_widths(d_sae)})

    def resolved_by(self, d_sae: int) -> Mapping[str, str]:
        """Rules by which `resolved` fills the fields, in words."""
        widths = f"d_sae = {d_sae:,} over 128, 32, 8, 4, 2 and 1"
        return {**super().resolved_by(d_sae), "widths": widths}

    def check_width(self, d_sae: int) -> None:
        """Widths ascend strictly from 1 on and end with d_sae."""
        refuse_together(
            lambda: super(MatryoshkaSpec, self).check_width(d_sae),
            lambda: check_prefixes(self.widths or (d_sae,), d_sae),
        )


def check_prefixes(widths: Sequence[int], d_sae: int) -> None:
    """Raise SpecError unless the widths ascend strictly from 1 or more and end with d_sae."""
    field, listed = "train.matryoshka.widths", list(widths)
    if widths[0] < 1:
        raise SpecError(field, f"{widths[0]} is not a width", remedy="begin with 1 or more")
    for narrow, wide in pairwise(widths):
        if wide <= narrow:
            raise SpecError(
                field,
                f"{listed} do not ascend: {wide} follows {narrow}",
                remedy="list each width once, the narrowest first",
            )
    if widths[-1] > d_sae:
        message = f"{listed} exceed d_sae = {d_sae}"
        raise SpecError(field, message, remedy="lower the widths or raise d_sae")
    if widths[-1] < d_sae:
        message = f"{listed} end before d_sae = {d_sae}, so later latents would not be trained"
        raise SpecError(field, message, remedy=f"end with {d_sae}")


def prefix_widths(d_sae: int) -> tuple[int, ...]:
    """The prefixes of a spec that names none: d_sae/128, /32, /8, /4, /2, /1.

    At d_sae = 4096 these are the six widths [32, 128, 512, 1024, 2048, 4096] that scored best on
    SynthSAEBench (docs/RECIPES.md, "What raised ground-truth scores").
    """
    return tuple(sorted({max(1, d_sae // share) for share in (128, 32, 8, 4, 2, 1)}))
