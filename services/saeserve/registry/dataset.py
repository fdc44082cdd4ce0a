"""A data set as the store holds it, and the keys of its files."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from saeserve.core.formats.manifest import DatasetManifest


class DatasetState(StrEnum):
    """Follows from which file exists (manifest.json, failed.json or neither), and from the result
    of the job that makes it where that has not been applied yet."""

    PENDING = "PENDING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True)
class DatasetFile:
    """One file uploaded to or registered with a PENDING data set; sizes in bytes."""

    name: str
    size_bytes: int
    received_bytes: int
    sha256: str
    path: Path

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self.received_bytes == self.size_bytes


@dataclass(frozen=True)
class Dataset:
    """A data set found by `DatasetRegistry`; `manifest` is set when it is READY."""

    name: str
    state: DatasetState
    folder: Path
    job: str
    created: float
    failure: str
    manifest: DatasetManifest | None
    files: tuple[DatasetFile, ...]


def unreadable(name: str, why: str) -> Dataset:
    """What a listing shows of a data set one of whose documents is damaged."""
    return Dataset(name, DatasetState.FAILED, Path(), "", 0.0, why, None, ())


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Created(_Stored):
    """What created.json holds: who makes the data set (no job: uploads or registered files)."""

    format_version: int = 1
    job: str = ""
    created: float


class Maker(_Stored):
    """What makers/<n>.json holds: a job that ingests the data set; the highest number counts."""

    format_version: int = 1
    job: str


class Registered(_Stored):
    """What registered.json holds: the files to ingest, each as root:relative."""

    format_version: int = 1
    files: tuple[str, ...]


class Failed(_Stored):
    """What failed.json holds."""

    format_version: int = 1
    message: str


class UploadHeader(_Stored):
    """What a client says of a file before its first byte; kept next to the file.

    `sha256` is lower-case hex of the whole file.
    """

    dataset: str
    file_name: str
    size_bytes: int
    sha256: str


def dataset_key(name: str, file: str = "") -> str:
    """Store key of a data set's folder, or of a file in it."""
    return f"datasets/{name}/{file}" if file else f"datasets/{name}"
