"""The torch-free description of an exported model, stored beside its tensors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saeserve.core.specs.base import Spec

MODEL_FORMAT = 1


class TensorSource(Spec):
    """A named slice [offset, offset + d) of the input or output axis."""

    name: str
    offset: int = Field(ge=0)
    d: int = Field(ge=1)


class TopKActivation(Spec):
    """Keeps the k largest pre-activations of a row, then applies `post`."""

    kind: Literal["topk"] = "topk"
    k: int = Field(ge=1)
    post: Literal["relu", "none", "abs"] = "relu"


class ThresholdActivation(Spec):
    """Keeps h where h > threshold, one threshold a latent."""

    kind: Literal["threshold"] = "threshold"


class ReluActivation(Spec):
    """Keeps positive pre-activations."""

    kind: Literal["relu"] = "relu"


class RowNorm(Spec):
    """Normalisation of each row before encoding, needed by some imports."""

    kind: Literal["none", "layer_norm"] = "none"
    eps: float = 0.0
    ddof: int = 0


class Lineage(Spec):
    """Where a model comes from."""

    spec: dict[str, object] = Field(default_factory=dict)
    dataset: str = ""
    dataset_sha256: str = ""
    source: str = ""
    job: str = ""
    code_version: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)


class ModelConfig(Spec):
    """Shapes, activation and lineage of an InferenceModel (DESIGN section 3)."""

    format_version: int = MODEL_FORMAT
    architecture: str
    d_in: int = Field(ge=1)
    d_out: int = Field(ge=1)
    d_sae: int = Field(ge=1)
    inputs: tuple[TensorSource, ...]
    outputs: tuple[TensorSource, ...]
    activation: TopKActivation | ThresholdActivation | ReluActivation = Field(discriminator="kind")
    row_norm: RowNorm = RowNorm()
    dead_latents: int = Field(default=0, ge=0)
    lineage: Lineage = Lineage()
