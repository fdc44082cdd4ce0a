"""Model versions as messages."""

from __future__ import annotations

import json

from saeserve.control.converters.times import timestamp
from saeserve.core.formats.model import TensorSource
from saeserve.registry.version import ModelVersion
from saeserve.v1 import model_pb2


def model_message(found: ModelVersion) -> model_pb2.Model:
    """The version as the API tells it."""
    config, lineage = found.config, found.config.lineage
    activation = config.activation
    return model_pb2.Model(
        resource=found.resource,
        name=found.name,
        version=found.version,
        aliases=found.aliases,
        architecture=config.architecture,
        activation=activation.kind,
        d_in=config.d_in,
        d_out=config.d_out,
        d_sae=config.d_sae,
        k=config.k or 0,
        size_bytes=found.size_bytes,
        content_sha256=found.content_sha256,
        dataset=lineage.dataset,
        source=lineage.source,
        job=lineage.job or found.job,
        metrics=lineage.metrics,
        create_time=timestamp(found.created),
        inputs=[_source(source) for source in config.inputs],
        outputs=[_source(source) for source in config.outputs],
        skip_connection=config.skip_connection,
        warnings=[
            model_pb2.ModelWarning(code=each.code, message=each.message)
            for each in lineage.warnings
        ],
        lineage=json.dumps(lineage.spec),
        dataset_sha256=lineage.dataset_sha256,
        code_version=lineage.code_version,
    )


def _source(source: TensorSource) -> model_pb2.ModelSource:
    return model_pb2.ModelSource(
        name=source.name, offset=source.offset, d=source.d, norm_bound=source.norm_bound
    )
