"""Formats by their names: what the jobs call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.peers import (
    dictionary_learning,
    gemma_scope,
    llama_scope,
    openai,
    payload,
    saelens,
    sparsify,
)
from saeserve.core.export.peers.files import ForeignFiles
from saeserve.core.export.peers.foreign import ForeignModel, Imported, canonical
from saeserve.core.specs.interchange import ExportFormat, ImportFormat

IMPORTERS: Mapping[ImportFormat, Callable[[ForeignFiles], ForeignModel]] = {
    "saelens": saelens.read,
    "dictionary_learning": dictionary_learning.read,
    "sparsify": sparsify.read,
    "gemma_scope": gemma_scope.read,
    "gemma_scope_2": gemma_scope.read_second,
    "llama_scope": llama_scope.read,
    "openai": openai.read,
}
EXPORTERS: Mapping[ExportFormat, Callable[[InferenceModel], payload.Payload]] = {
    "saelens": saelens.write,
    "dictionary_learning": dictionary_learning.write,
    "sparsify": sparsify.write,
}


def import_model(files: ForeignFiles, format: ImportFormat, source: str | None = None) -> Imported:
    """Read a foreign model; `source` names its input where the files should not.

    Nothing in the files is run. Raises FormatError for whatever is wrong with them.
    """
    foreign = IMPORTERS[format](files)
    if source is not None:
        foreign = dataclasses.replace(foreign, source=source)
    return canonical(foreign, format)


def export_model(model: InferenceModel, format: ExportFormat, folder: Path) -> None:
    """Make `folder` in the files of another library.

    Raises FormatError, naming the property, for a model that the format cannot hold, DataError
    when the folder exists, NoSpaceError when the disk is full; nothing is left behind then.
    """
    payload.write(EXPORTERS[format](model), folder)
