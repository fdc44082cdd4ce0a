"""Writes the card of a model, with what the store and the roots say of where it comes from."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import cast

import yaml

from saeserve.core.formats.model import ModelConfig
from saeserve.errors import SaeserveError
from saeserve.registry.folders import write_synced
from saeserve.registry.version import CARD
from saeserve.worker.model_card import Facts, model_card
from saeserve.worker.runners.base import RunContext

_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)")
_MOST = 1 << 20
"""Bytes of a README or config that are looked at."""


def write_card(
    context: RunContext, folder: Path, model: str, config: ModelConfig, format: str = ""
) -> None:
    """Write README.md into `folder`, next to files of the `format`; "" is our own."""
    base, terms = _base_model(context, config)
    write_synced(folder / CARD, model_card(Facts(model, config, base, terms, format)))


def _base_model(context: RunContext, config: ModelConfig) -> tuple[str, str]:
    """Name and licence of the language model of the data set; what is not known is empty."""
    lineage = config.lineage
    if not lineage.dataset:
        return "", ""
    try:
        manifest = context.datasets.get(lineage.dataset).manifest
        if manifest is None or manifest.sha256 != lineage.dataset_sha256:
            return "", ""
        language_model = manifest.language_model
        if language_model is None:
            return "", ""
        name = named(language_model.path)
        folder = context.roots.resolve(language_model.path)
    except SaeserveError:
        # The data set or the language model has gone: the card says less.
        return "", ""
    return origin(folder) or name, licence(folder)


def named(path: str) -> str:
    """By its path: the Hub's cache has the name in it, other folders are called by theirs."""
    cached = _CACHED.search(path)
    return f"{cached[1]}/{cached[2]}" if cached else PurePosixPath(path.rpartition(":")[2]).name


def origin(folder: Path) -> str:
    """The name on the Hub that a config of transformers keeps; a path is none."""
    try:
        config: object = json.loads(_beginning(folder / "config.json"))
    except ValueError:
        return ""
    known = cast("dict[str, object]", config) if isinstance(config, dict) else {}
    name = known.get("_name_or_path", "")
    return name if isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) else ""


def licence(folder: Path) -> str:
    """What the front matter of the language model's own README says."""
    front = _FRONT.match(_beginning(folder / CARD))
    if front is None:
        return ""
    try:
        fields: object = yaml.safe_load(front[1])
    except yaml.YAMLError:
        return ""
    known = cast("dict[str, object]", fields) if isinstance(fields, dict) else {}
    terms = known.get("license", "")
    return terms if isinstance(terms, str) else ""


def _beginning(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MOST)
    except OSError:
        return ""
