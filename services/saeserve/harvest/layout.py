"""Where a transformer keeps its decoder layers, and which module's output a site is."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from saeserve.core.errors import SpecError
from saeserve.core.specs.jobs import SiteSpec

LAYER_LISTS = ("model.layers", "transformer.h", "gpt_neox.layers")
"""Llama and its relatives; GPT-2, GPT-J, Falcon; GPT-NeoX and Pythia."""
SUBMODULES = {
    "mlp_out": ("mlp",),
    "attn_out": ("self_attn", "attn", "attention", "self_attention"),
}
ADDS_RESIDUAL_INSIDE = frozenset({"bloom"})
"""Model types whose attention and MLP modules return the sum with the residual stream."""


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers. Raises SpecError naming the places looked at."""
    for path in LAYER_LISTS:
        module: object = model
        for part in path.split("."):
            module = getattr(module, part, None)
        if isinstance(module, nn.ModuleList):
            return module
    raise SpecError(
        "language_model",
        f"{type(model).__name__} keeps its decoder layers in none of {', '.join(LAYER_LISTS)}",
        remedy="use a model laid out like Llama, GPT-2 or GPT-NeoX",
    )


def site_module(model: nn.Module, model_type: str, site: SiteSpec) -> nn.Module:
    """The module whose output is the site.

    resid_post is the output of the whole layer; mlp_out and attn_out are the outputs of its MLP
    and attention modules (before a norm that some models put between them and the residual).
    Raises SpecError for a layer that does not exist and for a layout that is not known.
    """
    layers = decoder_layers(model)
    if site.layer >= len(layers):
        raise SpecError(
            "sites.layer",
            f"layer {site.layer} does not exist: the model has {len(layers)} layers",
            remedy=f"choose 0 to {len(layers) - 1}",
        )
    layer = layers[site.layer]
    return layer if site.hook == "resid_post" else _submodule(layer, model_type, site)


def _submodule(layer: nn.Module, model_type: str, site: SiteSpec) -> nn.Module:
    names = SUBMODULES[site.hook]
    found = (getattr(layer, name, None) for name in names)
    module = next((module for module in found if isinstance(module, nn.Module)), None)
    if module is None or model_type in ADDS_RESIDUAL_INSIDE:
        raise SpecError(
            "sites.hook",
            f"{site.hook} is not a module of {type(layer).__name__} ({model_type}); "
            f"looked for {', '.join(names)}",
            remedy="use resid_post",
        )
    return module


def hidden_of(output: object) -> Tensor:
    """The hidden states [S, T, d] in what a module returned: itself, or first of a tuple."""
    hidden = cast("tuple[object, ...]", output)[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor):
        raise SpecError(
            "language_model",
            f"a layer returned {type(hidden).__name__} where hidden states were expected",
            remedy="use a model laid out like Llama, GPT-2 or GPT-NeoX",
        )
    return hidden


def with_hidden(output: object, hidden_STD: Tensor) -> object:
    """`output` with its hidden states replaced."""
    if isinstance(output, tuple):
        return (hidden_STD, *cast("tuple[object, ...]", output)[1:])
    return hidden_STD
