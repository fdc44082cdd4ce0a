"""One published version as the store holds it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from saeserve.core.formats.model import READ_FORMATS, ModelConfig
from saeserve.errors import DamagedError, FormatError, SpecError
from saeserve.registry.folders import FileDigest

VERSION_FORMAT = 1
CONFIG = "config.json"
TENSORS = "model.safetensors"
CARD = "README.md"
"""For people; versions of releases that wrote none lack it."""
MANIFEST = "manifest.json"
CLAIM = "claim.json"
DELETED = "deleted.json"
_JSON_OBJECT = TypeAdapter(dict[str, object])


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version of a model, found by `ModelRegistry`."""

    resource: str
    name: str
    version: int
    folder: Path
    config: ModelConfig
    content_sha256: str
    size_bytes: int
    created: float
    job: str
    aliases: tuple[str, ...]


class _Stored(BaseModel):
    """What the store holds of this room: frozen, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Claim(_Stored):
    """What `claim.json` holds: the output of which job this version is."""

    job: str
    index: int


class StoredFile(_Stored):
    """Size in bytes and sha256 of one file of a version."""

    size: int
    sha256: str


class VersionManifest(_Stored):
    """What `manifest.json` holds; a version without one is not there."""

    format_version: int = VERSION_FORMAT
    job: str
    index: int
    created: float
    files: dict[str, StoredFile]

    @property
    def content_sha256(self) -> str:
        """Hash of the files' hashes but the card's: equal for equal models, whatever job made
        them and whatever they are called."""
        hashes = {name: file.sha256 for name, file in self.files.items() if name != CARD}
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files.values())

    @staticmethod
    def of(claim: Claim, created: float, files: Mapping[str, FileDigest]) -> VersionManifest:
        """The manifest of files just written."""
        stored = {name: StoredFile(size=f.size, sha256=f.sha256) for name, f in files.items()}
        return VersionManifest(job=claim.job, index=claim.index, created=created, files=stored)

    def to_bytes(self) -> bytes:
        """JSON, as `read_manifest` reads it."""
        return self.model_dump_json(indent=1).encode()


def read_manifest(data: bytes, where: str) -> VersionManifest:
    """Read a version's manifest. Raises FormatError naming `where`."""
    _check_format(data, (VERSION_FORMAT,), where)
    try:
        return VersionManifest.model_validate_json(data)
    except ValidationError as error:
        raise _damaged(where, str(error.errors(include_url=False)[0]["msg"])) from None


def read_config(data: bytes, where: str) -> ModelConfig:
    """Read a model's config.json. Raises FormatError naming `where`."""
    value = _check_format(data, READ_FORMATS, where)
    try:
        return ModelConfig.parse(value, CONFIG)
    except SpecError as error:
        raise _damaged(where, error.message) from None


def _check_format(data: bytes, known: tuple[int, ...], where: str) -> dict[str, object]:
    try:
        value: dict[str, object] = _JSON_OBJECT.validate_json(data)
    except ValidationError as error:
        raise _damaged(where, str(error.errors(include_url=False)[0]["msg"])) from None
    version = value.get("format_version")
    if version not in known:
        read = " and ".join(map(str, known))
        raise FormatError(
            f"{where} has format_version {version}; this release reads {read}",
            remedy="use the release that wrote it, or publish again",
        )
    return value


def _damaged(where: str, why: str) -> DamagedError:
    return DamagedError(f"{where} is damaged: {why}", remedy="delete the version and publish again")
