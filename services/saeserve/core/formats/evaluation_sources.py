"""Which sources of a data set a model is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.core.formats.manifest import DatasetManifest, SourceEntry
from saeserve.core.formats.model import ModelConfig
from saeserve.core.formats.train_sources import FindSource
from saeserve.errors import DataMismatchError, SpecError

_FIELD = "evaluate.source"


def judged_sources(
    config: ModelConfig,
    asked: str | None,
    manifest: DatasetManifest,
    find: FindSource,
    field: str = _FIELD,
) -> tuple[SourceEntry, ...]:
    """The sources whose columns stand side by side in the rows that the model is judged on.

    An autoencoder takes the source that is asked for, else the one it was trained on, else the
    only one; any other form its inputs by name, and a transcoder its target after them. `field` is
    the path of `asked`.
    Raises SpecError where `asked` is not a transcoder's input, and what `find` raises.
    """
    names = [source.name for source in config.inputs]
    if not config.transcodes and len(names) == 1:
        known = {entry.name for entry in manifest.sources}
        return (find(asked or (names[0] if names[0] in known else None), field),)
    if asked is not None and [asked] != names:
        raise SpecError(
            field,
            f"the model reads {', '.join(names)}, not {asked}",
            remedy="leave source out",
        )
    if config.transcodes:
        names += [source.name for source in config.outputs]
    return tuple(find(name, field) for name in names)


def check_widths(
    model: str, config: ModelConfig, sources: Sequence[SourceEntry], dataset: str
) -> None:
    """Raise DataMismatchError for a source of another width than the model's."""
    wanted = [*config.inputs, *(config.outputs if config.transcodes else ())]
    for place, source in zip(wanted, sources, strict=True):
        if place.d != source.d:
            raise DataMismatchError(
                f"{model} takes rows of width {place.d} as {place.name}, and {source.name} of "
                f"data set {dataset} has {source.d}",
                remedy="evaluate on the sites that the model was trained on",
            )
