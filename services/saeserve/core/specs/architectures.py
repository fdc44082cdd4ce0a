"""Specs of the architectures: their own hyper-parameters and nothing else.

Constants and their sources: the class docstrings.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, Self

from pydantic import Field

from saeserve.core.errors import SpecError
from saeserve.core.specs.base import Spec


class ArchitectureSpec(Spec):
    """Base of the architecture specs; `name` is the case in the API's oneof and in the registry."""

    name: ClassVar[str]
    exact_choice: ClassVar[Literal["never", "compiled", "always"]] = "never"
    """Where active latents stay those of float32 when the encoder multiplies in a lower type: in
    compiled kernels only, or by autograd too."""

    def check_width(self, d_sae: int) -> None:
        """Raise SpecError where the spec does not fit `d_sae` latents."""

    def aimed_at(self, target_l0: float | None) -> Self:
        """The spec whose runs have this mean L0; None leaves it as it stands.

        Raises SpecError where the spec cannot be aimed.
        """
        if target_l0 is None:
            return self
        raise SpecError(
            "train.target_l0",
            f"{self.name} has no sparsity to aim",
            remedy="leave target_l0 out, or choose another architecture",
        )


def check_active(spec: ArchitectureSpec, field: str, k: float, d_sae: int) -> None:
    """Raise SpecError where more latents a row are asked for than there are."""
    if k > d_sae:
        raise SpecError(
            f"train.{spec.name}.{field}",
            f"{field} = {k} exceeds d_sae = {d_sae}",
            remedy=f"lower {field} or raise d_sae",
        )


def with_k(k: float, asked: bool, target_l0: float | None, name: str) -> float:
    """k by `target_l0`, where that is given; raises SpecError where both are and differ."""
    if target_l0 is None:
        return k
    if asked and k != target_l0:
        raise SpecError(
            "train.target_l0",
            f"asks for {target_l0:g} and {name}.k for {k:g}",
            remedy="set one of them",
        )
    return target_l0


class AuxKSpec(ArchitectureSpec):
    """Base of the specs that may add AuxK; off unless a subclass says otherwise."""

    k_aux: int | None = Field(default=None, ge=1)
    auxk_coefficient: float = Field(default=0.0, ge=0)


class TopKSpec(AuxKSpec):
    """TopK with AuxK (Gao et al. 2024, arXiv 2406.04093, sections 2.3 and A.2).

    `encoder_norm` is the norm of W_enc's rows at the start; the paper's is 1, that of W_dec's rows.
    Shorter rows turn further in a step and train better in the same steps
    (DECISIONS.md, "TopK and BatchTopK start with a short encoder").
    """

    name: ClassVar[str] = "topk"
    exact_choice: ClassVar[Literal["never", "compiled", "always"]] = "always"

    k: int = Field(default=32, ge=1)
    auxk_coefficient: float = Field(default=1 / 32, ge=0)
    multi_topk_coefficient: float = Field(default=0.0, ge=0)
    b_dec_init: Literal["mean", "geometric_median"] = "geometric_median"
    encoder_norm: float = Field(default=0.3, gt=0, le=1)

    def check_width(self, d_sae: int) -> None:
        """k is at most d_sae."""
        check_active(self, "k", self.k, d_sae)

    def aimed_at(self, target_l0: float | None) -> Self:
        """k is the target, which must be whole."""
        k = with_k(self.k, "k" in self.model_fields_set, target_l0, self.name)
        if k != int(k):
            raise SpecError(
                "train.target_l0",
                f"{k:g} is not whole, and topk has as many latents in every row",
                remedy="choose a whole number, or batchtopk",
            )
        return self.model_copy(update={"k": int(k)})


class BatchTopKSpec(AuxKSpec):
    """BatchTopK (Bussmann, Leask, Nanda 2024, arXiv 2412.06410) with AuxK.

    k is a mean over rows and may be broken. `k_initial` anneals it linearly from there to k.
    `encoder_norm` is as in TopKSpec.
    """

    name: ClassVar[str] = "batchtopk"
    exact_choice: ClassVar[Literal["never", "compiled", "always"]] = "always"

    k: float = Field(default=32.0, gt=0)
    auxk_coefficient: float = Field(default=1 / 32, ge=0)
    b_dec_init: Literal["mean", "geometric_median"] = "geometric_median"
    k_initial: float | None = Field(default=None, gt=0)
    k_anneal_fraction: float = Field(default=0.8, ge=0, le=1)
    encoder_norm: float = Field(default=0.3, gt=0, le=1)

    def check_width(self, d_sae: int) -> None:
        """k and k_initial are at most d_sae."""
        check_active(self, "k", self.k, d_sae)
        if self.k_initial is not None:
            check_active(self, "k_initial", self.k_initial, d_sae)

    def aimed_at(self, target_l0: float | None) -> Self:
        """k, a mean over rows, is the target."""
        k = with_k(self.k, "k" in self.model_fields_set, target_l0, self.name)
        return self.model_copy(update={"k": k})


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

    def check_width(self, d_sae: int) -> None:
        """Widths ascend strictly from 1 on and end with d_sae."""
        super().check_width(d_sae)
        if self.widths:
            check_prefixes(self.widths, d_sae)


def check_prefixes(widths: Sequence[int], d_sae: int) -> None:
    """Raise SpecError unless the widths ascend strictly from 1 or more and end with d_sae."""
    field, listed = "train.matryoshka.widths", list(widths)
    if widths[0] < 1:
        raise SpecError(field, f"{widths[0]} is no width", remedy="begin with 1 or more")
    for narrow, wide in pairwise(widths):
        if wide <= narrow:
            raise SpecError(
                field,
                f"{listed} do not ascend: {wide} follows {narrow}",
                remedy="list each width once, the narrowest first",
            )
    if widths[-1] > d_sae:
        raise SpecError(
            field,
            f"{listed} exceed d_sae = {d_sae}",
            remedy="lower the widths or raise d_sae",
        )
    if widths[-1] < d_sae:
        raise SpecError(
            field,
            f"{listed} end before d_sae = {d_sae}, so later latents would not be trained",
            remedy=f"end with {d_sae}",
        )


def prefix_widths(d_sae: int) -> tuple[int, ...]:
    """The prefixes of a Matryoshka spec that names none: d_sae/128, /32, /8, /4, /2, /1.

    At d_sae = 4096 these are the six widths [32, 128, 512, 1024, 2048, 4096] that scored best on
    SynthSAEBench (docs/RECIPES.md, "What raised ground-truth scores").
    """
    return tuple(sorted({max(1, d_sae // share) for share in (128, 32, 8, 4, 2, 1)}))


class PenaltySpec(AuxKSpec):
    """Base of the specs whose sparsity comes from a weighted penalty, which target_l0 controls."""

    sparsity_coefficient: float = Field(ge=0)

    @property
    def first_factor(self) -> float:
        """Where the controller's factor starts: low, in place of the ramp's 0."""
        return 0.05

    def aimed_at(self, target_l0: float | None) -> Self:
        """As it stands: a controller moves the penalty while training."""
        if target_l0 is not None and self.sparsity_coefficient == 0:
            raise SpecError(
                f"train.{self.name}.sparsity_coefficient",
                "is 0, so nothing could be controlled",
                remedy="leave it out",
            )
        return self


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
    the preset `gemma-scope`; `quadratic` holds L0 at train.target_l0. `frequency_scale`
    makes firing dear for latents that fire in more than about this share of rows.
    """

    name: ClassVar[str] = "jumprelu"
    exact_choice: ClassVar[Literal["never", "compiled", "always"]] = "compiled"

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
    def first_factor(self) -> float:
        """1: under target_l0 penalties are quadratic, and the factor divides their goal."""
        return 1.0

    def aimed_at(self, target_l0: float | None) -> Self:
        """As any penalty; the quadratic one cannot do without a target."""
        if self.penalty == "quadratic" and target_l0 is None:
            raise SpecError(
                "train.target_l0",
                'is what jumprelu.penalty = "quadratic" needs',
                remedy="set target_l0",
            )
        return super().aimed_at(target_l0)


ARCHITECTURE_SPECS: dict[str, type[ArchitectureSpec]] = {
    spec.name: spec
    for spec in (TopKSpec, JumpReluSpec, ReluSpec, GatedSpec, BatchTopKSpec, MatryoshkaSpec)
}
