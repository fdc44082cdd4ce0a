"""Model versions as the SDK hands them out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from saeserve.client.values import RunWarning
from saeserve.client.wire import instant
from saeserve.v1 import model_pb2


@dataclass(frozen=True)
class ModelSource:
    """One source [offset, offset + d) of a model's input or output axis."""

    name: str
    offset: int
    d: int
    norm_bound: float | None = None
    """Rows of a larger norm took no part in training; None where there is no bound, or unknown."""


@dataclass(frozen=True)
class Model:
    """One version of a model."""

    resource: str
    name: str
    version: int
    aliases: tuple[str, ...]
    architecture: str
    activation: str
    d_in: int
    d_out: int
    d_sae: int
    k: int
    size_bytes: int
    content_sha256: str
    dataset: str
    source: str
    job: str
    metrics: Mapping[str, float]
    created: datetime | None
    inputs: tuple[ModelSource, ...] = ()
    """What the input axis holds, side by side: several sources for a crosscoder."""
    outputs: tuple[ModelSource, ...] = ()
    """What the output axis holds; a transcoder's differ from its inputs."""
    skip_connection: bool = False
    """Whether a linear part of the input is added to the output: reconstruct, then, not decode."""
    warnings: tuple[RunWarning, ...] = ()
    """What a reader of `metrics` must know about the run."""
    lineage: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What made it: the train spec, or of an import how the files were read."""
    dataset_sha256: str = ""
    """Content hash of the data set as it was then."""
    code_version: str = ""
    """Release of saeserve that made it."""


def model_value(model: model_pb2.Model) -> Model:
    """A Model off the wire."""
    return Model(
        resource=model.resource,
        name=model.name,
        version=model.version,
        aliases=tuple(model.aliases),
        architecture=model.architecture,
        activation=model.activation,
        d_in=model.d_in,
        d_out=model.d_out,
        d_sae=model.d_sae,
        k=model.k,
        size_bytes=model.size_bytes,
        content_sha256=model.content_sha256,
        dataset=model.dataset,
        source=model.source,
        job=model.job,
        metrics=dict(model.metrics),
        created=instant(model.create_time),
        inputs=_sources(model.inputs),
        outputs=_sources(model.outputs),
        skip_connection=model.skip_connection,
        warnings=tuple(RunWarning(each.code, each.message) for each in model.warnings),
        lineage=json.loads(model.lineage) if model.lineage else {},
        dataset_sha256=model.dataset_sha256,
        code_version=model.code_version,
    )


def _sources(sources: Iterable[model_pb2.ModelSource]) -> tuple[ModelSource, ...]:
    return tuple(
        ModelSource(
            source.name,
            source.offset,
            source.d,
            source.norm_bound if source.HasField("norm_bound") else None,
        )
        for source in sources
    )
