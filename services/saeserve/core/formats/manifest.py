"""The manifest of a data set: what its shards hold, where the rows come from, what was verified."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from saeserve.core.specs.base import Spec
from saeserve.core.specs.jobs import LanguageModelSpec, StorageType
from saeserve.errors import DamagedError, FormatError, SpecError

MANIFEST_FORMAT = 4
READ_MANIFESTS = (1, 2, 3, 4)
"""1 does not say in which type the language model computed; in 1 and 2 every token is a row; before
4 there are no sums."""
MASSIVE_NORM = 5.0
"""Rows whose norm exceeds this many medians are counted as massive
(docs/DESIGN.md, "Massive activations")."""


class SourceEntry(Spec):
    """One named source: a matrix [rows, d] spread over the shards under this name."""

    name: str
    d: int = Field(ge=1)
    hook: str = ""
    layer: int = -1
    head: int | None = None
    """One head of attn_z; None for all, and for any other hook."""
    median_norm: float = Field(gt=0)
    massive_rows: int = Field(ge=0)


class ShardEntry(Spec):
    """One safetensors file; `file` is relative to the manifest's folder.

    Tensors: each source by name [rows, d]; `norm.<source>` float32 [rows]; int32 [rows]
    `document`, `sequence`, `position`, `token_id` (all -1 where unknown, `document` never).
    """

    file: str
    rows: int = Field(ge=1)
    size_bytes: int
    sha256: str


class ContextsEntry(Spec):
    """One safetensors file of whole held-out sequences, where rows leave out some of their tokens.

    int32 [tokens] `sequence` (as in the shards) and `token_id`, sequence by sequence, with the BOS
    token that was put in front.
    """

    file: str
    sequences: int = Field(ge=1)
    size_bytes: int
    sha256: str


class SumsEntry(Spec):
    """One safetensors file of sums over each source's training rows whose norm is at most
    MASSIVE_NORM medians (`data.sums`)."""

    file: str
    size_bytes: int
    sha256: str


class DocumentEntry(Spec):
    """One document: its origin, the hash that decided its split, and the split."""

    origin: str
    sha256: str
    split: Literal["train", "heldout"]
    rows: int


class TokenizationEntry(Spec):
    """How text became rows; lets evaluations replay held-out sequences and show tokens."""

    context_length: int
    bos: Literal["prepend", "none"]
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    """Ends every document of a packed data set; None otherwise."""
    packing: Literal["joined", "separate"] | None = None
    special_token_ids: tuple[int, ...] | None = None
    """Tokens whose rows were left out; None for none."""
    position_start: int | None = None
    position_stop: int | None = None
    """Rows were taken at these positions of each sequence, as in a Python slice."""


class DatasetManifest(Spec):
    """Written last, once every row has been verified: a data set with a manifest is READY."""

    format_version: int = MANIFEST_FORMAT
    name: str
    sources: tuple[SourceEntry, ...] = Field(min_length=1)
    shards: tuple[ShardEntry, ...] = Field(min_length=1)
    documents: tuple[DocumentEntry, ...] = Field(min_length=1)
    dtype: StorageType
    rows: int = Field(ge=1)
    heldout_rows: int = Field(ge=0)
    language_model: LanguageModelSpec | None = None
    tokenization: TokenizationEntry | None = None
    compute_dtype: Literal["float32", "bfloat16"] | None = None
    """In which the language model multiplied; None where that is unknown or there was none."""
    contexts: tuple[ContextsEntry, ...] | None = None
    """Held-out sequences; None where the shards hold all of their tokens."""
    sums: SumsEntry | None = None
    """None in data sets of older releases."""
    job: str = ""
    code_version: str = ""
    created: str = ""

    @property
    def files(self) -> tuple[ShardEntry | ContextsEntry | SumsEntry, ...]:
        """All files of the data set but the manifest."""
        sums = () if self.sums is None else (self.sums,)
        return (*self.shards, *(self.contexts or ()), *sums)

    def source(self, name: str | None) -> SourceEntry:
        """The source called `name`, or the only one. Raises KeyError naming what there is."""
        names = [entry.name for entry in self.sources]
        if name is None and len(names) == 1:
            return self.sources[0]
        for entry in self.sources:
            if entry.name == name:
                return entry
        raise KeyError(f"data set {self.name} has sources {', '.join(names)}")

    def to_bytes(self) -> bytes:
        """Canonical JSON, the bytes that `sha256` hashes."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode()

    @property
    def sha256(self) -> str:
        """Content hash, the lineage of what is trained on this data set."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @staticmethod
    def from_bytes(data: bytes) -> DatasetManifest:
        """Read a manifest; raises FormatError for another format version, DamagedError for what
        is not a manifest."""
        try:
            value: dict[str, Any] = dict(json.loads(data))
        except (ValueError, TypeError, RecursionError) as error:
            raise _damaged(f"it is not a JSON object ({error})") from error
        version = value.get("format_version")
        if version not in READ_MANIFESTS:
            raise FormatError(
                f"data set manifest has format_version {version}; this release reads "
                f"{', '.join(map(str, READ_MANIFESTS))}",
                remedy="use the release that wrote it, or harvest again",
            )
        try:
            return DatasetManifest.parse(value, "manifest")
        except SpecError as error:
            raise _damaged(error.message) from error


def _damaged(why: str) -> DamagedError:
    return DamagedError(
        f"manifest.json of the data set is damaged: {why}",
        remedy="restore the file, or write the data set again",
    )
