"""What a language model's folder says by its headers alone; weights are never read here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from saeserve.core.specs.jobs import LanguageModelSpec
from saeserve.core.specs.sites import SiteSpec
from saeserve.errors import InvalidInput
from saeserve.registry.refusals import no_file
from saeserve.registry.roots import Roots

_FIELD = "spec.harvest.language_model"
_ROPES_WITH_A_BOUND = ("longrope", "su")
"""Rotary positions whose factors change beyond a length: `harvest.layout.constant_rotation`."""


@dataclass(frozen=True)
class ModelFacts:
    """Width of the residual stream, of all heads' outputs, layers, heads, and the most tokens of a
    sequence; 0 when not known."""

    width: int = 0
    layers: int = 0
    heads: int = 0
    heads_width: int = 0
    positions: int = 0

    def width_of(self, site: SiteSpec) -> int:
        """Width of the rows of a site."""
        if site.hook != "attn_z":
            return self.width
        return self.heads_width if site.head is None else self.heads_width // max(self.heads, 1)


class _TextConfig(BaseModel):
    """The part of a config.json that a plan needs, under the names that are in use."""

    hidden_size: int = 0
    n_embd: int = 0
    num_hidden_layers: int = 0
    n_layer: int = 0
    num_attention_heads: int = 0
    n_head: int = 0
    head_dim: int | None = None
    max_position_embeddings: object = None
    n_positions: object = None
    rope_scaling: object = None
    rope_parameters: object = None

    @property
    def facts(self) -> ModelFacts:
        width = self.hidden_size or self.n_embd
        heads = self.num_attention_heads or self.n_head
        heads_width = heads * self.head_dim if self.head_dim else width
        layers = self.num_hidden_layers or self.n_layer
        return ModelFacts(width, layers, heads, heads_width, self._positions)

    @property
    def _positions(self) -> int:
        """0 where only the loaded model tells, since these rotary factors are a bound as well."""
        rope = repr((self.rope_scaling, self.rope_parameters))
        limit = self.max_position_embeddings or self.n_positions
        bounded = any(repr(name) in rope for name in _ROPES_WITH_A_BOUND)
        return limit if isinstance(limit, int) and not bounded else 0


class _Config(_TextConfig):
    text_config: _TextConfig | None = None
    """The text part of a model of several parts."""


def language_model_facts(spec: LanguageModelSpec, roots: Roots) -> ModelFacts:
    """Width and layers, as far as they can be known here.

    Roots that are not mounted on this machine are left to the worker. Raises InvalidInput and
    NotFound for a reference, folder or file that cannot be.
    """
    roots.check(spec.path, f"{_FIELD}.path")
    if not roots.present(spec.path):
        return ModelFacts()
    folder = roots.resolve(spec.path, f"{_FIELD}.path")
    if spec.gguf_file is not None:
        _check_gguf(folder, spec.gguf_file)
        return ModelFacts()
    if not any(folder.glob("*.safetensors")):
        raise _bad_folder(spec.path, "is not a folder with safetensors files")
    return _read_config(folder / "config.json", spec.path)


def _check_gguf(folder: Path, name: str) -> None:
    if "/" in name or "\\" in name or not name.endswith(".gguf"):
        raise InvalidInput(
            f"{name!r} is not the name of a GGUF file",
            field=f"{_FIELD}.gguf_file",
            remedy="name a file in the folder that ends in .gguf",
        )
    if not (folder / name).is_file():
        raise no_file(
            f"there is no {name} in {folder.name}",
            field=f"{_FIELD}.gguf_file",
            remedy="correct the name",
        )


def _read_config(path: Path, reference: str) -> ModelFacts:
    try:
        config = _Config.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise _bad_folder(reference, "has no config.json") from None
    except ValidationError:
        raise _bad_folder(reference, "has a config.json that cannot be read") from None
    return (config.text_config or config).facts


def _bad_folder(reference: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{reference} {why}",
        code="BAD_LANGUAGE_MODEL",
        field=f"{_FIELD}.path",
        remedy="name the folder of a Hugging Face causal language model, or set gguf_file",
    )
