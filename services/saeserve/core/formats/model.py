"""The torch-free description of an exported model, stored next to its tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, Self, cast

from pydantic import Field, model_validator

from saeserve.core.specs.base import Spec
from saeserve.core.specs.run_warning import RunWarning
from saeserve.errors import FormatError, SpecError

MODEL_FORMAT = 2
READ_FORMATS = (1, 2)
"""Format 1 does not say up to which norm rows were trained on."""
_READ = " and ".join(map(str, READ_FORMATS))
CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"


class TensorSource(Spec):
    """A named slice [offset, offset + d) of the input or output axis.

    Rows whose slice has a norm above `norm_bound` took no part in training and in the headline
    figures, so what a model makes of them means little. None: there is no bound, or it is unknown.
    """

    name: str
    offset: int = Field(ge=0)
    d: int = Field(ge=1)
    norm_bound: float | None = Field(default=None, gt=0)


class TopKActivation(Spec):
    """Keeps k pre-activations of a row and leaves exact zeros out.

    `relu` keeps the k largest and then those of them that are positive (Gao et al. 2024,
    arXiv 2406.04093); `none` keeps the k largest as they are; `abs` keeps the k of largest
    magnitude, signs included (AbsTopK, arXiv 2510.00404). `weighted` models choose by
    h · selection, a positive tensor over latents, and keep h: crosscoders, whose rows were of unit
    norm while each source was scaled by its own constant.
    """

    kind: Literal["topk"] = "topk"
    k: int = Field(ge=1)
    post: Literal["relu", "none", "abs"] = "relu"
    weighted: bool = False

    @property
    def keeps_negative(self) -> bool:
        """Whether features may be below 0."""
        return self.post != "relu"


class ThresholdActivation(Spec):
    """Keeps h where h > threshold; one threshold a latent, none negative, infinite when dead."""

    kind: Literal["threshold"] = "threshold"


class ReluActivation(Spec):
    """Keeps positive pre-activations."""

    kind: Literal["relu"] = "relu"


Activation = TopKActivation | ThresholdActivation | ReluActivation


def activation_of(k: int | None, *, thresholds: bool, weighted: bool) -> Activation:
    """That of a model with these thresholds, or k, or neither."""
    if thresholds:
        return ThresholdActivation()
    return ReluActivation() if k is None else TopKActivation(k=k, weighted=weighted)


class RowNorm(Spec):
    """Normalisation of each row before encoding, needed by some imports.

    `layer_norm`: x' = (x - mean) / (deviation + eps), the deviation with `ddof` degrees of freedom
    taken off; the output is multiplied by the deviation and moved by the mean again.
    """

    kind: Literal["none", "layer_norm"] = "none"
    eps: float = Field(default=0.0, ge=0)
    ddof: int = Field(default=0, ge=0, le=1)


class Lineage(Spec):
    """Where a model comes from."""

    spec: dict[str, object] = Field(default_factory=dict)
    dataset: str = ""
    dataset_sha256: str = ""
    source: str = ""
    job: str = ""
    code_version: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    warnings: tuple[RunWarning, ...] = ()
    """What a reader of the run's results must know."""


class ModelConfig(Spec):
    """Shapes, activation and lineage of an InferenceModel (docs/DESIGN.md, "Three forms")."""

    format_version: int = MODEL_FORMAT
    architecture: str
    d_in: int = Field(ge=1)
    d_out: int = Field(ge=1)
    d_sae: int = Field(ge=1)
    inputs: tuple[TensorSource, ...]
    outputs: tuple[TensorSource, ...]
    activation: Activation = Field(discriminator="kind")
    row_norm: RowNorm = RowNorm()
    skip_connection: bool = False
    dead_latents: int = Field(default=0, ge=0)
    lineage: Lineage = Lineage()

    @property
    def selecting(self) -> TopKActivation | None:
        """The activation, if it keeps k latents of each row."""
        return self.activation if isinstance(self.activation, TopKActivation) else None

    @property
    def k(self) -> int | None:
        """Latents that each row keeps, where that is a number."""
        return self.selecting.k if self.selecting is not None else None

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        _check_tiling("inputs", self.inputs, self.d_in)
        _check_tiling("outputs", self.outputs, self.d_out)
        if self.k is not None and self.k > self.d_sae:
            raise SpecError(
                "model.activation.k",
                f"k = {self.k} exceeds d_sae = {self.d_sae}",
                remedy="export the model again",
            )
        if self.row_norm.kind != "none" and (self.d_in < 2 or self.skip_connection):
            raise SpecError(
                "model.row_norm",
                "rows are normalised, but are of width 1 or skip the dictionary",
                remedy="export the model again",
            )
        if self.dead_latents > self.d_sae:
            raise SpecError(
                "model.dead_latents",
                f"{self.dead_latents} of {self.d_sae} latents cannot be dead",
                remedy="export the model again",
            )
        return self

    @property
    def transcodes(self) -> bool:
        """Whether the target is another source than the input."""
        return self.inputs != self.outputs

    def check_single_source(self, format: str, name: str = "this model") -> None:
        """Raise FormatError for a model of several inputs or outputs, which no format of other
        libraries holds: a crosscoder, mostly."""
        if self.several_sources:
            raise FormatError(
                f"the {format} format cannot hold {name}: {self.several_sources}",
                remedy="no format holds such a model: download its own files, or use it through "
                "saeserve",
            )

    @property
    def several_sources(self) -> str:
        """Reason why this is not a model of one source, such as a crosscoder; "" for one that
        is."""
        for side, sources in (("inputs", self.inputs), ("outputs", self.outputs)):
            if len(sources) > 1:
                names = ", ".join(source.name for source in sources)
                kind = side if self.transcodes else "it is a crosscoder: inputs and outputs"
                return f"{kind} are several sources ({names})"
        return ""

    @property
    def row_width(self) -> int:
        """Columns of a row that the model is judged on: its input, and a target of its own."""
        return self.d_in + (self.d_out if self.transcodes else 0)

    def to_bytes(self) -> bytes:
        """Canonical JSON: the content of `config.json`."""
        return (json.dumps(self.to_json(), sort_keys=True, indent=1) + "\n").encode()

    @staticmethod
    def from_bytes(data: bytes) -> ModelConfig:
        """Read `config.json`. Raises FormatError for anything that this release does not read."""
        value = _json_object(data)
        version = value.get("format_version")
        if version not in READ_FORMATS:
            raise FormatError(
                f"{CONFIG_FILE} has format_version {version}; this release reads {_READ}",
                remedy="use the release that wrote it, or export the model again",
            )
        try:
            return ModelConfig.parse(value, "model")
        except SpecError as error:
            raise FormatError(f"{CONFIG_FILE}: {error.message}", remedy=error.remedy) from error


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value: object = json.loads(data)
    except ValueError as error:
        raise FormatError(
            f"{CONFIG_FILE} is not JSON: {error}", remedy="restore the file, or export again"
        ) from error
    if not isinstance(value, dict):
        raise FormatError(f"{CONFIG_FILE} holds no JSON object", remedy="export the model again")
    return cast("dict[str, Any]", value)


def _check_tiling(field: str, sources: Sequence[TensorSource], width: int) -> None:
    """Sources stand side by side: each begins where the one before ends, the last at `width`."""
    position = 0
    for source in sources:
        if source.offset != position:
            raise SpecError(
                f"model.{field}",
                f"source {source.name!r} begins at {source.offset}, not at {position}",
                remedy="list the sources in order, without gaps",
            )
        position += source.d
    if position != width:
        raise SpecError(
            f"model.{field}",
            f"the sources are {position} wide together, the model {width}",
            remedy="make their widths add up",
        )
