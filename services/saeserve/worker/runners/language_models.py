"""The language model that a data set names."""

from __future__ import annotations

import torch

from saeserve.core.formats.manifest import DatasetManifest, SourceEntry
from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import DataMismatchError
from saeserve.harvest.language_model import LanguageModel
from saeserve.worker.runners.base import RunContext


def language_model_of(
    context: RunContext, manifest: DatasetManifest, device: torch.device
) -> LanguageModel:
    """Loaded in the type in which it computed then. Raises DataMismatchError where the data set
    names none, and SpecError where it cannot be read."""
    known = manifest.language_model
    if known is None:
        raise DataMismatchError(
            f"data set {manifest.name} names no language model",
            remedy="name a harvested data set",
        )
    folder = context.roots.resolve(known.path, "language_model.path")
    return LanguageModel.load(folder, known.gguf_file, device, manifest.compute_dtype or "auto")


def site_of(source: SourceEntry) -> SiteSpec:
    """Where the source was taken. Raises DataMismatchError where that is not known."""
    if not source.hook:
        raise DataMismatchError(
            f"it is not known where in the language model {source.name} was taken",
            remedy="harvest the data set, or name hook and layer when ingesting it",
        )
    place = {"hook": source.hook, "layer": source.layer, "head": source.head}
    return SiteSpec.parse(place, "source")
