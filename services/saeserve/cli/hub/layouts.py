"""Which format a repository's files have, as their names show."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from saeserve.cli.hub.refusals import unfit

OURS = "saeserve"
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    # Language models have the first two as well.
    OURS: ("config.json", "model.safetensors", "manifest.json"),
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "gemma_scope": ("params.npz",),
    "gemma_scope_2": ("params.safetensors",),
    "llama_scope": ("hyperparams.json", "checkpoints/final.safetensors"),
}
"""Files that a model of each format consists of, below its folder."""
_READ_TOO = {"gemma_scope_2": ("config.json",)}
_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """A model's files in a repository, and their format."""

    format: str
    names: tuple[str, ...]


def layout_of(names: Collection[str], folder: str, format: str | None, repo: str) -> Layout:
    """What lies in `folder` ("" is the whole repository; it may be a file), of the `format` where
    one is named.

    Raises PreconditionError where nothing there is an SAE, or it could be several.
    """
    if format is not None and folder in names:
        return Layout(format, (folder,))
    fitting = [each for each in _fitting(names, folder) if format in (None, each)]
    where = f"{repo}/{folder}" if folder else repo
    if not fitting:
        raise unfit(
            f"{where} holds no SAE{f' of the format {format}' if format else ''} that can be read",
            remedy=_elsewhere(names, format),
        )
    if len(fitting) > 1:
        raise unfit(
            f"{where} may be of the format {' or '.join(fitting)}",
            remedy="say which with --format",
        )
    [found] = fitting
    wanted = (*LAYOUTS[found], *_READ_TOO.get(found, ()))
    below = [_below(folder, name) for name in wanted]
    return Layout(found, tuple(name for name in below if name in names))


def others_than(format: str, names: Collection[str]) -> list[str]:
    """Other formats of which a repository's top folder has all files."""
    return [each for each in _fitting(names, "") if each != format]


def _fitting(names: Collection[str], folder: str) -> list[str]:
    return [
        format
        for format, wanted in LAYOUTS.items()
        if all(_below(folder, name) in names for name in wanted)
    ]


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _elsewhere(names: Iterable[str], format: str | None) -> str:
    """Where there would be one: folders of the repository that hold a model."""
    known = set(names)
    folders = sorted({name.rpartition("/")[0] for name in known} - {""})
    found = [
        each for each in folders if any(format in (None, fit) for fit in _fitting(known, each))
    ]
    if not found:
        return f"formats and their files are: {_formats()}"
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"name one of its folders with --path: {', '.join(found[:_SHOWN])}{more}"


def _formats() -> str:
    return "; ".join(f"{format}: {', '.join(names)}" for format, names in LAYOUTS.items())
