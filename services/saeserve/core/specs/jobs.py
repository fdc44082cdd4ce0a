"""The specs of harvest, ingest and evaluate jobs, and the union of all job kinds."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from saeserve.core.specs.base import Spec, refuse_together
from saeserve.core.specs.harvest_positions import check_positions
from saeserve.core.specs.interchange import ExportModelSpec, ImportModelSpec
from saeserve.core.specs.kind import KindSpec
from saeserve.core.specs.sites import Hook, SiteSpec
from saeserve.core.specs.text_jobs import AnnotateSpec, GenerateSpec
from saeserve.core.specs.training import Device, Name, TrainSpec
from saeserve.errors import SpecError

StorageType = Literal["float16", "bfloat16", "float32"]
LABEL_TOKENS = 262_144
"""Held-out rows that labels use by default, half of them to choose patterns and half to score."""
CONTEXT_LENGTH = 256
"""Tokens a context by default, where the language model has as many positions."""


class LanguageModelSpec(Spec):
    """A Hugging Face causal language model in a folder; `path` is root:relative."""

    path: str
    gguf_file: str | None = None


class TextSpec(Spec):
    """One text file or folder; `path` is root:relative."""

    path: str
    format: Literal["text", "lines", "jsonl", "chat"] = "text"
    field: str = "text"


class HarvestSpec(KindSpec):
    """Runs a language model over text and stores activations as a data set."""

    dataset: Name
    language_model: LanguageModelSpec
    texts: tuple[TextSpec, ...] = Field(min_length=1)
    sites: tuple[SiteSpec, ...] = Field(min_length=1)
    context_length: int | None = Field(default=None, ge=2)
    """Unset until the model's positions are known: see `context_of`."""
    max_tokens: int = Field(default=0, ge=0)
    bos: Literal["prepend", "none", "model"] = "prepend"
    special_token_rows: Literal["store", "drop"] = "store"
    position_start: int = 0
    position_stop: int | None = None
    packing: Literal["none", "joined", "separate"] = "none"
    dtype: StorageType = "float16"
    heldout_fraction: float = Field(default=0.1, ge=0, lt=1)
    shard_rows: int = Field(default=16_384, ge=1)
    batch_sequences: int = Field(default=8, ge=1)
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Device = "auto"

    @property
    @override
    def makes_dataset(self) -> str:
        return self.dataset

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        length = self.context_length or CONTEXT_LENGTH
        refuse_together(lambda: check_positions(self, length), self._check_sites)
        return self

    def _check_sites(self) -> None:
        names = [site.source for site in self.sites]
        if len(set(names)) != len(names):
            raise SpecError(
                "harvest.sites", f"a site is listed twice: {names}", remedy="name each once"
            )

    def context_of(self, positions: int | None) -> int:
        """Tokens a context: the given number, which may exceed a language model's `positions`,
        else the default, which does not. None: the model has no bound."""
        if self.context_length is not None:
            return self.context_length
        return CONTEXT_LENGTH if positions is None else min(CONTEXT_LENGTH, positions)

    def with_context(self, length: int) -> Self:
        """With `length` as context_length. Raises SpecError where the positions that are stored
        do not fit in it."""
        return self.parse(self.to_json() | {"context_length": length}, "harvest")


class IngestSourceSpec(Spec):
    """One tensor of the files of an ingest and the source that it becomes."""

    tensor: str = ""
    source: str = "activations"
    hook: Hook | None = None
    layer: int | None = Field(default=None, ge=0)


class IngestSpec(KindSpec):
    """Verifies the files of a PENDING data set and adopts them."""

    dataset: Name
    sources: tuple[IngestSourceSpec, ...] = ()
    dtype: Literal["keep", "float16", "bfloat16", "float32"] = "keep"
    heldout_fraction: float = Field(default=0.1, ge=0, lt=1)
    shard_rows: int = Field(default=16_384, ge=1)

    @property
    @override
    def makes_dataset(self) -> str:
        return self.dataset


Arm = Literal["mean", "zero", "pca", "random"]


class LossRecoveredSpec(Spec):
    """Splices reconstructions into the language model on held-out text."""

    max_tokens: int = Field(default=32_768, ge=1)
    batch_sequences: int = Field(default=8, ge=1)
    arms: tuple[Arm, ...] = ("mean", "zero", "pca", "random")
    """What else stands in for the rows, to compare with."""


class EvaluateSpec(KindSpec):
    """Evaluates a published model on the held-out rows of a data set."""

    model: str
    dataset: Name
    source: str | None = None
    max_rows: int = Field(default=0, ge=0)
    loss_recovered: LossRecoveredSpec | None = None
    context_features: int = Field(default=0, ge=0)
    contexts_per_feature: int = Field(default=5, ge=1)
    device: Device = "auto"
    models: tuple[str, ...] = ()
    """More models to evaluate with the same passes."""
    seed: int = Field(default=0, ge=0)

    @property
    def references(self) -> tuple[str, ...]:
        """All models."""
        return (self.model, *self.models)

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        twice = [name for name in self.references if self.references.count(name) > 1]
        if twice:
            raise SpecError(
                "evaluate.models", f"{twice[0]} is listed twice", remedy="name each model once"
            )
        return self


class CollectSpec(KindSpec):
    """Collects what each latent of a published model fires on, from stored rows with tokens."""

    model: str
    dataset: Name
    source: str | None = None
    max_tokens: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    logits: bool = False
    label_tokens: int = Field(default=LABEL_TOKENS, ge=0)
    """Held-out rows on which labels are chosen and scored; 0: no labels."""
    device: Device = "auto"


JOB_KINDS = (
    "train",
    "harvest",
    "ingest",
    "evaluate",
    "import_model",
    "export_model",
    "collect",
    "generate",
    "annotate",
)


class JobSpec(Spec):
    """Exactly one kind of job; mirrors the API's oneof."""

    train: TrainSpec | None = None
    harvest: HarvestSpec | None = None
    ingest: IngestSpec | None = None
    evaluate: EvaluateSpec | None = None
    import_model: ImportModelSpec | None = None
    export_model: ExportModelSpec | None = None
    collect: CollectSpec | None = None
    generate: GenerateSpec | None = None
    annotate: AnnotateSpec | None = None

    @property
    def kind(self) -> str:
        """The name of the kind that is set."""
        return next(name for name in JOB_KINDS if getattr(self, name) is not None)

    @property
    def chosen(self) -> KindSpec:
        """The spec of the kind that is set."""
        return getattr(self, self.kind)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        chosen = [name for name in JOB_KINDS if getattr(self, name) is not None]
        if len(chosen) != 1:
            raise SpecError(
                "spec",
                f"exactly one job kind must be set; got {' and '.join(chosen) or 'none'}",
                remedy=f"set one of: {', '.join(JOB_KINDS)}",
            )
        return self
