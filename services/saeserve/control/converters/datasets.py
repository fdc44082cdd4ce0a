"""Data sets as messages."""

from __future__ import annotations

from saeserve.control.converters.times import timestamp
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.registry.dataset import Dataset, DatasetFile
from saeserve.v1 import dataset_pb2


def dataset_message(found: Dataset) -> dataset_pb2.Dataset:
    """The data set as the API tells it; rows and sources once it is READY."""
    message = dataset_pb2.Dataset(
        name=found.name,
        state=dataset_pb2.DatasetState.Value(f"DATASET_STATE_{found.state.value}"),
        failure=found.failure,
        job=found.job,
        create_time=timestamp(found.created),
        files=[_file_message(file) for file in found.files],
    )
    if found.manifest is not None:
        message.MergeFrom(_manifest_part(found.manifest))
    return message


def _manifest_part(manifest: DatasetManifest) -> dataset_pb2.Dataset:
    model = manifest.language_model
    return dataset_pb2.Dataset(
        sources=[
            dataset_pb2.DatasetSource(
                name=source.name,
                d=source.d,
                hook=source.hook,
                layer=source.layer,
                head=source.head,
                median_norm=source.median_norm,
                massive_rows=source.massive_rows,
            )
            for source in manifest.sources
        ],
        rows=manifest.rows,
        heldout_rows=manifest.heldout_rows,
        shards=len(manifest.shards),
        size_bytes=sum(file.size_bytes for file in manifest.files),
        dtype=manifest.dtype,
        language_model=model.path if model else "",
        manifest_sha256=manifest.sha256,
        job=manifest.job,
    )


def _file_message(file: DatasetFile) -> dataset_pb2.DatasetFile:
    return dataset_pb2.DatasetFile(
        name=file.name,
        size_bytes=max(0, file.size_bytes),
        received_bytes=file.received_bytes,
        sha256=file.sha256,
    )
