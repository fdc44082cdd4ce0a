"""Formats by their names: what the jobs call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.peers import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    openai,
    own,
    payload,
    saelens,
    sparsify,
)
from saeserve.core.peers.files import ForeignFiles
from saeserve.core.peers.foreign import ForeignModel, Imported, canonical
from saeserve.core.specs.interchange import ExportFormat, ImportFormat
from saeserve.errors import FormatError

IMPORTERS: Mapping[str, Callable[[ForeignFiles], ForeignModel]] = {
    "saelens": saelens.read,
    "dictionary_learning": dictionary_learning.read,
    "sparsify": sparsify.read,
    "gemma_scope": gemma_scope.read,
    "gemma_scope_2": gemma_scope_2.read,
    "llama_scope": llama_scope.read,
    "openai": openai.read,
}
EXPORTERS: Mapping[ExportFormat, Callable[[InferenceModel], payload.Payload]] = {
    "saelens": saelens.write,
    "dictionary_learning": dictionary_learning.write,
    "sparsify": sparsify.write,
}


def import_model(
    files: ForeignFiles,
    format: ImportFormat,
    source: str | None = None,
    target: str | None = None,
) -> Imported:
    """Read a foreign model, or one of another deployment.

    `source` and `target` name what it reads and writes where the files should not. A target equal
    to the source says that it is an autoencoder.

    Nothing in the files is run. Raises FormatError for whatever is wrong with them, and for a
    target that they contradict.
    """
    if format == own.FORMAT:
        return own.read(files, source, target)
    foreign = IMPORTERS[format](files)
    if source is not None:
        foreign = dataclasses.replace(foreign, source=source)
    return canonical(_aimed(foreign, target), format)


def _aimed(foreign: ForeignModel, target: str | None) -> ForeignModel:
    """With the target that the caller names; without one, the files have to say it."""
    if target is None:
        if foreign.unstated is not None and foreign.unstated.refused:
            raise FormatError(
                foreign.unstated.why,
                remedy="name the target: the source's own name for an autoencoder, the name of "
                "another place for a transcoder",
            )
        return foreign
    transcodes = target != foreign.source
    if foreign.unstated is None and transcodes != bool(foreign.target):
        kind = "a transcoder" if foreign.target else "an autoencoder"
        raise FormatError(
            f"the files are of {kind}, which the target {target!r} for the source "
            f"{foreign.source!r} contradicts",
            remedy="leave the target out, or name another place for a transcoder only",
        )
    return dataclasses.replace(foreign, target=target if transcodes else "", unstated=None)


def export_model(model: InferenceModel, format: ExportFormat, folder: Path) -> None:
    """Make `folder` in the files of another library.

    Raises FormatError, naming the property, for a model that the format cannot hold, DataError
    when the folder exists, NoSpaceError when the disk is full; nothing is left behind then.
    """
    payload.write(EXPORTERS[format](model), folder)
