"""A data set off the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from saeserve.client.wire import instant, plain
from saeserve.v1 import dataset_pb2


@dataclass(frozen=True)
class Dataset:
    """A data set of activations."""

    name: str
    state: str
    rows: int
    heldout_rows: int
    shards: int
    size_bytes: int
    dtype: str
    language_model: str
    sources: tuple[Mapping[str, Any], ...]
    failure: str
    job: str
    manifest_sha256: str
    created: datetime | None
    files: tuple[Mapping[str, Any], ...] = field(default=())


def dataset_value(dataset: dataset_pb2.Dataset) -> Dataset:
    """A Dataset off the wire."""
    return Dataset(
        name=dataset.name,
        state=dataset_pb2.DatasetState.Name(dataset.state).removeprefix("DATASET_STATE_"),
        rows=dataset.rows,
        heldout_rows=dataset.heldout_rows,
        shards=dataset.shards,
        size_bytes=dataset.size_bytes,
        dtype=dataset.dtype,
        language_model=dataset.language_model,
        sources=tuple(plain(source) for source in dataset.sources),
        failure=dataset.failure,
        job=dataset.job,
        manifest_sha256=dataset.manifest_sha256,
        created=instant(dataset.create_time),
        files=tuple(plain(file) for file in dataset.files),
    )
