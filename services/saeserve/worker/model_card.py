"""The model card: README.md as the Hugging Face Hub shows it, with front matter.

Source of the fields: the Hub's documentation, "Model Cards", section "Model card metadata".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from saeserve.core.formats.model import ModelConfig, TensorSource

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$-])")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_FIGURES = {
    "fvu": "fraction of variance unexplained on held-out rows",
    "l0": "mean number of active latents of a held-out row",
    "dead_fraction": "share of latents that fired on none of the last training tokens",
    "silent_on_heldout": "latents that fire on none of the held-out rows",
}
_LOADERS = {
    "": "from saeserve.client import Client\n\nfeatures = Client().encode({name}, activations)",
    "saelens": 'from sae_lens import SAE\n\nsae = SAE.load_from_disk("folder")  # of this file',
    "dictionary_learning": "from dictionary_learning.utils import load_dictionary\n\n"
    'sae, config = load_dictionary("folder", device="cpu")  # of this file',
    "sparsify": "from sparsify import SparseCoder\n\n"
    'sae = SparseCoder.load_from_disk("folder")  # of this file',
}
_TAGS = {"saelens": ("SAELens",), "": ()}
_LIBRARIES = {"": "saeserve", "saelens": "saelens"}


@dataclass(frozen=True)
class Facts:
    """What a card says besides the model's config; empty where it is not known."""

    model: str
    config: ModelConfig
    base_model: str = ""
    """A name on the Hub, or that of the language model's folder."""
    base_licence: str = ""
    format: str = ""
    """Library whose files the card lies with; empty for saeserve's own."""


def model_card(facts: Facts) -> bytes:
    """The card as UTF-8. Whatever names hold, the front matter is YAML that reads back as they
    are (white space aside), and the text shows them as they are."""
    front = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True, width=10**6)
    parts = ["---", front.rstrip("\n"), "---", "", f"# {_text(facts.model)}", "", _about(facts)]
    parts += ["", *_table(_properties(facts)), *_figures(facts), *_warnings(facts), *_use(facts)]
    return ("\n".join(parts) + "\n").encode()


def front_matter(facts: Facts) -> dict[str, object]:
    """The front matter's fields. `license` is not among them: how a model may be used is for
    whoever publishes it to say."""
    lineage = facts.config.lineage
    fields: dict[str, object] = {
        "library_name": _LIBRARIES.get(facts.format, facts.format),
        "tags": [
            "sparse-autoencoder",
            "mechanistic-interpretability",
            "saeserve",
            _plain(facts.config.architecture),
            *_TAGS.get(facts.format, ()),
        ],
    }
    if _HUB_ID.fullmatch(facts.base_model):
        fields["base_model"] = facts.base_model
    if lineage.dataset:
        fields["datasets"] = [_plain(lineage.dataset)]
    return fields


def _about(facts: Facts) -> str:
    config = facts.config
    kind = "autoencoder" if not config.transcodes else "transcoder"
    if config.several_sources:
        kind = "crosscoder"
    of = f" of {_text(facts.base_model)}" if facts.base_model else ""
    return f"A sparse {kind}{of}, architecture {_text(config.architecture)}."


def _properties(facts: Facts) -> Iterator[tuple[str, str]]:
    config, lineage = facts.config, facts.config.lineage
    spec = lineage.spec
    imported = spec.get("imported_from", "")
    yield "base model", facts.base_model or "not known"
    yield "base model's licence", facts.base_licence or "not known"
    yield "reads", _sites(config.inputs)
    yield "writes", _sites(config.outputs) if config.transcodes else ""
    yield "d_in, d_sae, d_out", f"{config.d_in}, {config.d_sae}, {config.d_out}"
    yield "activation", config.activation.kind + (f", k = {config.k}" if config.k else "")
    yield "training tokens", str(spec.get("tokens", ""))
    yield "data set", lineage.dataset or ("" if imported else "not known")
    yield "data set's content", lineage.dataset_sha256
    yield "imported from", str(imported)
    yield "made by", f"saeserve {lineage.code_version}".strip()


def _sites(sources: tuple[TensorSource, ...]) -> str:
    return ", ".join(f"{source.name} ({source.d} columns)" for source in sources)


def _figures(facts: Facts) -> Iterator[str]:
    metrics = facts.config.lineage.metrics
    known = [(name, metrics[name], why) for name, why in _FIGURES.items() if name in metrics]
    if not known:
        return
    yield from ("", "## Figures", "", "| figure | value | meaning |", "|---|---|---|")
    yield from (f"| {_text(name)} | {value:.6g} | {why} |" for name, value, why in known)


def _warnings(facts: Facts) -> Iterator[str]:
    found = facts.config.lineage.warnings
    if found:
        yield from ("", "## Warnings", "")
        yield from (f"- {_text(each.code)}: {_text(each.message)}" for each in found)


def _use(facts: Facts) -> Iterator[str]:
    code = _LOADERS.get(facts.format, "")
    name = json.dumps(_plain(facts.model))
    yield from ("", "## Use", "", "```python", *code.replace("{name}", name).split("\n"), "```")
    if not facts.format:
        yield ""
        yield "Activations are rows of the site above, raw, in any float type."


def _table(rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    yield from (f"| {name} | {_text(value)} |" for name, value in rows if value)


def _plain(text: str) -> str:
    """In one line, of characters that UTF-8 and YAML have."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _text(text: str) -> str:
    """Markdown that shows these characters and nothing else."""
    return _SPECIAL.sub(r"\\\1", _plain(text))
