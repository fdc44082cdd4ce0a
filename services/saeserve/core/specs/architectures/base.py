"""What an architecture's spec says: its hyper-parameters, and the facts that planning, resolving
and continuing need. All of it without torch; each fact has a default that a new architecture may
keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from typing import ClassVar, Literal, Self

from pydantic import Field

from saeserve.core.specs.base import Spec
from saeserve.errors import SpecError

STRONG_L1_PENALTY = 1 / 3
"""Share of a row's mean norm: L1 shrinks an activation by half of its weight."""


@dataclass(frozen=True)
class StepCost:
    """What a training step takes, in units of its widths, for plans of time and memory."""

    encoder_products: int = 2
    """Dense products in the encoder's type, 2 d_in d_sae FLOP a row each."""
    other_products: int = 3
    """Dense products in float32, 2 d_out d_sae FLOP a row each. The defaults are those of a loss
    that differentiates W_enc x and f W_dec: five in all."""
    gathers: float = 0.0
    """What a number of an active latent's rows costs, where one of [rows, d_sae] costs 1."""
    autograd_tensors: int = 7
    """[rows, d_sae] float32 tensors alive at the peak of a step that autograd differentiates."""
    compiled: Literal["none", "entries", "dense"] = "none"
    """What a compiled step on the CPU keeps of the batch: lists of entries, or dense features;
    none where the CPU uses autograd too."""
    device_tensors: int = 0
    """[rows, d_sae] tensors of the encoder's type alive at the peak of a dense step in a GPU's
    kernels; 0 where there are none."""


class ArchitectureSpec(Spec):
    """Base of the architecture specs; `name` is the case in the API's oneof and in the registry."""

    name: ClassVar[str]
    exact_choice: ClassVar[Literal["never", "compiled", "always"]] = "never"
    """Where active latents stay those of float32 when the encoder multiplies in a lower type: in
    compiled kernels only, or by autograd too."""
    exported_activation: ClassVar[Literal["topk", "threshold", "relu"]] = "relu"
    """Kind of activation of the exported model, which is also what a run can continue from."""
    latent_vectors: ClassVar[tuple[str, ...]] = ("b_enc",)
    """Parameters with one number for each latent."""
    has_input_bias: ClassVar[bool] = False
    """Whether a bias is subtracted from the input: b_dec, or a transcoder's own b_pre."""
    calibrates_threshold: ClassVar[bool] = False
    """Whether the evaluation form's threshold stands for a choice that depends on the batch."""
    cost: ClassVar[StepCost] = StepCost()
    learning_rate: ClassVar[float] = 0.05
    """Fitted peak rate times sqrt(d_in), at 1,024 latents and 1,000 steps: see `fitted`."""
    adam_eps: ClassVar[float] = 1e-8
    quantile_latents: ClassVar[int] = 0
    """Latents whose quantiles over the initial sample are taken at a time; 0 takes none."""

    @property
    def asked_l0(self) -> float | None:
        """The mean L0 that the spec itself asks for; None where a penalty decides."""
        return None

    @property
    def active_latents(self) -> float:
        """Entries of a row that the loss gathers; 0 where it is dense."""
        return 0.0

    @property
    def most_active_latents(self) -> float:
        """The most of them in any step."""
        return self.active_latents

    def auxiliary_latents(self, d_sae: int) -> int:
        """Dead latents that a row may take in addition (AuxK); 0 where it is off."""
        return 0

    @property
    def reconstructions(self) -> int:
        """Nested reconstructions whose gradients a step holds."""
        return 1

    @property
    def computes_few_entries(self) -> bool:
        """Whether a GPU's kernels compute again only entries whose choice is open."""
        return False

    @property
    def gpu_kernels(self) -> bool:
        """Whether the dense step of this spec has kernels for GPUs. Those find active latents as
        float32 does, so the encoder may multiply in a lower type there."""
        return False

    @property
    def starts_at_median(self) -> bool:
        """Whether biases start at geometric medians, which are found in float64."""
        return False

    def sample_rows(self, d_sae: int) -> int:
        """Rows of the sample that initial values are computed from. One is enough where they do
        not depend on the data, only on whether target and input agree."""
        return 1

    def resolved(self, d_in: int, d_sae: int, target_l0: float | None) -> Self:
        """The spec with every field filled that depends on others."""
        return self

    def resolved_by(self, d_sae: int) -> Mapping[str, str]:
        """How `resolved` fills the fields that need the width of the data, in words."""
        return {}

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


class AuxKSpec(ArchitectureSpec):
    """Base of the specs that may add AuxK; off unless a subclass says otherwise."""

    k_aux: int | None = Field(default=None, ge=1)
    auxk_coefficient: float = Field(default=0.0, ge=0)

    def auxiliary_latents(self, d_sae: int) -> int:
        """`k_aux`, once it is resolved, where the term has a weight."""
        return min(self.k_aux or 0, d_sae) if self.auxk_coefficient else 0

    def resolved(self, d_in: int, d_sae: int, target_l0: float | None) -> Self:
        """`k_aux` is a power of two near half the width of the data."""
        if self.k_aux is not None:
            return self
        near_half = 2 ** round(log2(max(d_in / 2, 1)))
        return self.model_copy(update={"k_aux": min(near_half, d_sae)})

    def resolved_by(self, d_sae: int) -> Mapping[str, str]:
        """Rules by which `resolved` fills the fields, in words."""
        return {"k_aux": "a power of two near half the width of the data, at most d_sae"}


class SelectingSpec(AuxKSpec):
    """Base of the specs that keep the largest pre-activations: the TopK family."""

    exact_choice: ClassVar[Literal["never", "compiled", "always"]] = "always"
    has_input_bias: ClassVar[bool] = True
    # One dense product; choosing takes about 8 ns a latent on one Zen 4 core, the products of
    # entries 1.8 ns a number. Tensors: pre-activations, and a copy for dead latents.
    cost: ClassVar[StepCost] = StepCost(1, 0, 0.2, 2, "entries")
    # Latents of one row are only compared, so biases need not move as far as under a penalty.
    learning_rate: ClassVar[float] = 0.06
    adam_eps: ClassVar[float] = 6.25e-10

    def sample_rows(self, d_sae: int) -> int:
        """32,768, as the paper's for the geometric median."""
        return 32_768

    def check_active(self, field: str, k: float, d_sae: int) -> None:
        """Raise SpecError where more latents a row are asked for than there are."""
        if k > d_sae:
            raise SpecError(
                f"train.{self.name}.{field}",
                f"{field} = {k} exceeds d_sae = {d_sae}",
                remedy=f"lower {field} or raise d_sae",
            )

    def k_at(self, k: float, target_l0: float | None) -> float:
        """k by `target_l0`, where that is given; raises SpecError where both are set and differ."""
        if target_l0 is None:
            return k
        if "k" in self.model_fields_set and k != target_l0:
            raise SpecError(
                "train.target_l0",
                f"asks for {target_l0:g} and {self.name}.k for {k:g}",
                remedy="set one of them",
            )
        return target_l0


class PenaltySpec(AuxKSpec):
    """Base of the specs whose sparsity comes from a weighted penalty, which target_l0 controls."""

    sparsity_coefficient: float = Field(ge=0)

    @property
    def first_factor(self) -> float:
        """Where the controller's factor starts: low, in place of the ramp's 0."""
        return 0.05

    def strongest(self, mean_norm: float) -> float:
        """The coefficient above which few latents stay active, for rows of this mean norm."""
        return STRONG_L1_PENALTY * mean_norm

    def aimed_at(self, target_l0: float | None) -> Self:
        """Return the spec unchanged: a controller moves the penalty while training."""
        if target_l0 is not None and self.sparsity_coefficient == 0:
            raise SpecError(
                f"train.{self.name}.sparsity_coefficient",
                "is 0, so nothing could be controlled",
                remedy="leave it out",
            )
        return self
