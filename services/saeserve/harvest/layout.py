"""Finds the decoder layers of a language model by its structure, not by names of modules."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from saeserve.errors import SpecError

_OTHER_PARTS = ("vision", "visual", "image", "audio", "speech", "encoder")
"""Words in the names of the parts of a model of several parts that do not read text."""


def text_setting(model: nn.Module, name: str) -> object:
    """A setting of the part of the model that reads text; None where it has no such setting.

    Raises SpecError for a module without a configuration.
    """
    config = getattr(cast("Any", model), "config", None)
    if config is None:
        raise _not_a_decoder(model, "it has no configuration")
    return getattr(config.get_text_config(decoder=True), name, None)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers: the outermost list of as many modules as the text
    configuration has layers. Of several, the one with the most parameters.

    Raises SpecError where there is none.
    """
    wanted = text_setting(model, "num_hidden_layers")
    lists = _outermost_lists(model)
    found = [(name, layers) for name, layers in lists.items() if len(layers) == wanted]
    text = [pair for pair in found if not any(word in pair[0] for word in _OTHER_PARTS)]
    if not found:
        sizes = ", ".join(f"{name} ({len(layers)})" for name, layers in lists.items()) or "none"
        raise _not_a_decoder(
            model, f"no list of modules has {wanted}, its number of layers; lists: {sizes}"
        )
    return max((text or found), key=lambda pair: _parameters(pair[1]))[1]


def named_modules(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The module ("") and all below it, by path; each once."""
    return cast("list[tuple[str, nn.Module]]", list(cast("Any", module).named_modules()))


def _outermost_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    lists: dict[str, nn.ModuleList] = {}
    for name, module in named_modules(model):
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and not inside:
            lists[name] = module
    return lists


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _not_a_decoder(model: nn.Module, why: str) -> SpecError:
    return SpecError(
        "language_model",
        f"the decoder layers of {type(model).__name__} cannot be found: {why}",
        remedy="use a causal language model of transformers",
    )


def constant_rotation(model: nn.Module) -> int | None:
    """The length up to which `longrope` keeps one set of factors; None where the factors of rotary
    positions do not change with the length (within max_position_embeddings)."""
    settings = text_setting(model, "rope_parameters")
    nested = cast("dict[str, object]", settings) if isinstance(settings, dict) else {}
    for part in (nested, *nested.values()):
        rope = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        if rope.get("rope_type") == "longrope":
            return int(rope["original_max_position_embeddings"])
    return None


def layer_at(model: nn.Module, index: int) -> nn.Module:
    """Layer `index`. Raises SpecError naming the number of layers."""
    layers = decoder_layers(model)
    if index >= len(layers):
        raise SpecError(
            "sites.layer",
            f"layer {index} does not exist: the model has {len(layers)} layers",
            remedy=f"choose 0 to {len(layers) - 1}",
        )
    return layers[index]


def first_tensor(value: object) -> Tensor | None:
    """The hidden states in what a module returned or was given: itself, or the first tensor of
    floating point of a tuple; None where there is none."""
    several = isinstance(value, (tuple, list))
    values = cast("tuple[object, ...]", value) if several else (value,)
    floats = (v for v in values if isinstance(v, Tensor) and v.is_floating_point())
    return next(floats, None)


def with_tensor(value: object, new: Tensor) -> object:
    """`value` with `first_tensor(value)` replaced by `new`."""
    if not isinstance(value, (tuple, list)):
        return new
    values = list(cast("tuple[object, ...]", value))
    old = first_tensor(tuple(values))
    place = next(i for i, v in enumerate(values) if v is old)
    values[place] = new
    return tuple(values)
