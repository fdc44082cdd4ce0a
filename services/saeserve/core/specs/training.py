"""The spec of a training job, and how its unset fields are resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import override

from saeserve.core.specs import fitted
from saeserve.core.specs.architectures.base import ArchitectureSpec, PenaltySpec
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.gated import GatedSpec
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.architectures.relu import ReluSpec
from saeserve.core.specs.architectures.topk import TopKSpec
from saeserve.core.specs.base import Spec, refuse_together
from saeserve.core.specs.forms import check_form, not_one
from saeserve.core.specs.kind import KindSpec
from saeserve.core.specs.names import check_name
from saeserve.core.specs.presets import overlaid
from saeserve.core.specs.sweep import Grid, SweepSpec, checked_grid
from saeserve.errors import SpecError

Name = Annotated[str, AfterValidator(check_name)]
Device = Literal["auto", "cpu", "cuda"]

DEAD_WINDOW_TOKENS = 10_000_000
MOST_ENTRIES = 2**31 - 1
"""Active latents of a micro-batch: lists of them are sorted with counts of 32 bits on CUDA."""


class OptimizerSpec(Spec):
    """Adam; unset fields are fitted to the run, those of a preset are published (see `resolve`)."""

    lr: float | None = Field(default=None, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float | None = Field(default=None, gt=0)
    clip_norm: float = Field(default=1.0, ge=0)
    warmup_steps: int | None = Field(default=None, ge=0)
    decay_fraction: float = Field(default=0.2, ge=0, le=1)


class PreprocessSpec(Spec):
    """What happens to rows before the SAE sees them (docs/DESIGN.md, "Massive activations").

    `mean_norm` is E|x| after scaling, sqrt(d) where it is unset; papers with other units set it.
    """

    centre: Literal["mean", "none"] = "mean"
    norm_cut: float = Field(default=5.0, ge=0)
    scale: bool = True
    mean_norm: float | None = Field(default=None, gt=0)
    window_shards: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _scaled_if_to_a_norm(self) -> Self:
        if self.mean_norm is not None and not self.scale:
            raise SpecError(
                "train.preprocess.mean_norm",
                "is set, and scale is false",
                remedy="set one of them",
            )
        return self


class ResampleSpec(Spec):
    """Resampling of dead latents (Bricken et al. 2023, Towards Monosemanticity, appendix A.6).

    After each of `steps` dead latents (as dead_window_tokens counts them, if they were not
    resampled within that window) take the direction of a row, drawn by the square of its loss among
    `rows` rows; their encoder rows get `fraction` of the mean norm of the others', in the TopK
    family more where it takes more to fire on that row.
    """

    steps: tuple[Annotated[int, Field(ge=1)], ...] = (25_000, 50_000, 75_000, 100_000)
    fraction: float = Field(default=0.2, gt=0, le=1)
    rows: int = Field(default=819_200, ge=1, le=2**24)


class TrainSpec(KindSpec):
    """Trains an SAE, transcoder (`target_source`) or crosscoder (`sources`) on a READY data set.

    With a `sweep` it stands for several, its `members`; what it says itself is the first of them.
    """

    dataset: Name
    source: str | None = None
    target_source: str | None = None
    sources: tuple[str, ...] = ()
    skip_connection: bool = False
    model: Name
    topk: TopKSpec | None = None
    jumprelu: JumpReluSpec | None = None
    relu: ReluSpec | None = None
    gated: GatedSpec | None = None
    batchtopk: BatchTopKSpec | None = None
    matryoshka: MatryoshkaSpec | None = None
    d_sae: int = Field(ge=1, le=2**24)
    tokens: int = Field(ge=1)
    batch_size: int = Field(default=2048, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    data_seed: int | None = Field(default=None, ge=0, lt=2**63)
    optimizer: OptimizerSpec = OptimizerSpec()
    preprocess: PreprocessSpec = PreprocessSpec()
    dead_window_tokens: int = Field(default=DEAD_WINDOW_TOKENS, ge=1)
    checkpoint_every_steps: int = Field(default=500, ge=1)
    log_every_steps: int = Field(default=10, ge=1)
    device: Device = "auto"
    encoder_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    eval_rows: int = Field(default=16_384, ge=0)
    target_l0: float | None = Field(default=None, gt=0)
    resample: ResampleSpec | None = None
    preset: str | None = None
    init_from: str | None = None
    sweep: SweepSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: object) -> object:
        """What a preset says, and of a sweep what its first member says."""
        if not isinstance(data, Mapping):
            return data
        fields = cast("Mapping[str, Any]", data)
        if isinstance(fields.get("sweep"), Mapping | SweepSpec):
            fields = checked_grid(fields, lambda member: cls.parse(member, "train"))
        return fitted.with_batch(overlaid(fields))

    @property
    def order_seed(self) -> int:
        """Seed of the order of rows."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def members(self) -> tuple[TrainSpec, ...]:
        """What a sweep stands for, each without a sweep; the spec itself where there is none."""
        if self.sweep is None:
            return (self,)
        # What was left unset stays so: a default k does not contradict target_l0, a set one does.
        fields = self.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        members = Grid.of(fields).members()
        return tuple(TrainSpec.parse(member.fields, "train") for member in members)

    @property
    @override
    def l0_by_model(self) -> dict[str, float | None]:
        return {member.model: member.asked_l0 for member in self.members}

    @property
    def architecture(self) -> ArchitectureSpec:
        """The one architecture that is set."""
        for name in ARCHITECTURE_SPECS:
            chosen: ArchitectureSpec | None = getattr(self, name)
            if chosen is not None:
                return chosen
        raise SpecError("train", "no architecture is set")

    @property
    def asked_l0(self) -> float | None:
        """The mean L0 that was asked for, as target_l0 or k; None where a weight decides."""
        if self.target_l0 is not None:
            return self.target_l0
        return self.architecture.asked_l0

    @property
    def steps(self) -> int:
        """Optimiser steps of the run; the last partial batch is dropped."""
        return self.tokens // self.batch_size

    @classmethod
    @override
    def missing(cls, value: Mapping[str, Any]) -> SpecError | None:
        """The one architecture, which a preset brings too."""
        if value.get("preset") is not None:
            return None
        return not_one([name for name in ARCHITECTURE_SPECS if value.get(name) is not None])

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        refuse_together(
            self._check_architecture, self._check_form, self._check_steps, self._check_micro_batch
        )
        return self

    def _check_architecture(self) -> None:
        error = not_one([name for name in ARCHITECTURE_SPECS if getattr(self, name) is not None])
        if error is not None:
            raise error
        refuse_together(self._check_target, self._check_width, self._check_entries)

    def _check_target(self) -> None:
        self.architecture.aimed_at(self.target_l0)
        if self.target_l0 is not None and self.target_l0 > self.d_sae:
            raise SpecError(
                "train.target_l0",
                f"{self.target_l0:g} exceeds d_sae = {self.d_sae}",
                remedy="lower target_l0 or raise d_sae",
            )

    def _check_width(self) -> None:
        chosen = self.architecture
        unset = "k" in type(chosen).model_fields and "k" not in chosen.model_fields_set
        if unset and self.target_l0 is not None:
            chosen = chosen.aimed_at(1)  # k is target_l0, which `_check_target` checks
        chosen.check_width(self.d_sae)

    def _check_entries(self) -> None:
        rows = self.micro_batch_size or self.batch_size
        chosen = self.architecture
        entries = max(chosen.most_active_latents, chosen.auxiliary_latents(self.d_sae)) * rows
        if entries > MOST_ENTRIES:
            raise SpecError(
                "train.micro_batch_size",
                f"{rows:,} rows have {entries:,.0f} active or auxiliary latents, more than the "
                "2^31 that are listed at once",
                remedy="set a smaller micro_batch_size",
            )

    def _check_form(self) -> None:
        check_form(self.source, self.target_source, self.sources, skip=self.skip_connection)

    def _check_steps(self) -> None:
        if self.steps < 1:
            raise SpecError(
                "train.tokens",
                f"{self.tokens} tokens make no whole batch of {self.batch_size}",
                remedy="raise tokens or lower batch_size",
            )
        if self.resample is not None and not any(s < self.steps for s in self.resample.steps):
            raise SpecError(
                "train.resample.steps",
                f"{list(self.resample.steps)} has none before the run's last, {self.steps}",
                remedy="resample earlier, or train longer",
            )

    def _check_micro_batch(self) -> None:
        micro = self.micro_batch_size
        if micro is not None and self.batch_size % micro:
            raise SpecError(
                "train.micro_batch_size",
                f"{micro} does not divide batch_size = {self.batch_size}",
                remedy="choose a divisor of batch_size",
            )


def resolve(spec: TrainSpec, d_in: int, source: str | None) -> TrainSpec:
    """Fill every field that depends on others. Sources: docs/RECIPES.md, "Defaults".

    `d_in` is the width of `source`, the data set's source that is trained on; of a crosscoder,
    whose `source` is None, that of all its sources together. Of a sweep only what its members
    share is filled; each of them is resolved by itself.
    """
    shared = settled(spec).model_copy(
        update={
            "source": source,
            "dead_window_tokens": min(spec.dead_window_tokens, max(1, spec.tokens // 10)),
            "micro_batch_size": spec.micro_batch_size or spec.batch_size,
        }
    )
    return shared if spec.sweep is not None else _resolve_own(shared, d_in)


def settled(spec: TrainSpec) -> TrainSpec:
    """Fill what depends on the spec alone: k by target_l0, a target where a penalty has neither it
    nor a weight, and the order of rows by the seed."""
    chosen, target = spec.architecture, spec.target_l0
    if isinstance(chosen, PenaltySpec) and "sparsity_coefficient" not in chosen.model_fields_set:
        target = target or fitted.l0_of(spec.d_sae)
    aimed = chosen.aimed_at(target)
    return spec.model_copy(
        update={aimed.name: aimed, "target_l0": target, "data_seed": spec.order_seed}
    )


def _resolve_own(spec: TrainSpec, d_in: int) -> TrainSpec:
    architecture = spec.architecture.resolved(d_in, spec.d_sae, spec.target_l0)
    optimizer = spec.optimizer.model_copy(update=_adam_defaults(spec, d_in))
    return spec.model_copy(update={architecture.name: architecture, "optimizer": optimizer})


def _adam_defaults(spec: TrainSpec, d_in: int) -> dict[str, object]:
    """lr, warm-up and eps where they are unset; those of presets are published: Gao et al. 2024."""
    chosen, adam = spec.architecture, spec.optimizer
    rate = fitted.rate_of(chosen.learning_rate, d_in, spec.d_sae, spec.steps)
    warmup = fitted.warmup_of(spec.steps)
    if spec.preset is not None:
        rate, warmup = 2e-4 / math.sqrt(spec.d_sae / 2**14), 0
    return {
        "lr": adam.lr or rate,
        "warmup_steps": warmup if adam.warmup_steps is None else adam.warmup_steps,
        "eps": adam.eps or chosen.adam_eps,
    }
