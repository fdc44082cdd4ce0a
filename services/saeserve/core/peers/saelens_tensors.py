"""The tensors of SAELens's files, by architecture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.peers import saelens_config
from saeserve.core.peers.files import JsonObject
from saeserve.core.peers.gated import as_threshold
from saeserve.core.peers.tables import Layout, TensorTable
from saeserve.errors import FormatError

_DECODER: Layout = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_out"), "b_dec": ("d_out",)}
_BIAS: Layout = {"b_enc": ("d_sae",)}
_SKIP: Layout = {"W_skip": ("d_out", "d_in")}
_LAYOUTS: dict[str, Layout] = {
    "standard": {**_DECODER, **_BIAS},
    "topk": {**_DECODER, **_BIAS},
    "abstopk": {**_DECODER, **_BIAS},
    "jumprelu": {**_DECODER, **_BIAS, "threshold": ("d_sae",)},
    "gated": {**_DECODER, "b_gate": ("d_sae",), "b_mag": ("d_sae",), "r_mag": ("d_sae",)},
    "transcoder": {**_DECODER, **_BIAS},
    "jumprelu_transcoder": {**_DECODER, **_BIAS, "threshold": ("d_sae",)},
    "skip_transcoder": {**_DECODER, **_BIAS, **_SKIP},
    "jumprelu_skip_transcoder": {**_DECODER, **_BIAS, **_SKIP, "threshold": ("d_sae",)},
}
_FACTORS = ("scaling_factor", "finetuning_scaling_factor")
"""Factors of releases before 6: features are multiplied by them before they are decoded."""
_ALWAYS_APPLIED = 3
"""Releases before this one multiply whatever the config says."""


@dataclass(frozen=True)
class Taken:
    """Tensors by our names; `finetuned` where scaling factors were folded into W_dec."""

    tensors: dict[str, Tensor]
    finetuned: bool = False


def architecture(config: JsonObject) -> str:
    """Raises FormatError for one that we do not hold."""
    name = config.text("architecture")
    if name not in _LAYOUTS:
        raise FormatError(
            f"{config.where}: architecture {name!r} is not imported",
            remedy=f"imported are: {', '.join(_LAYOUTS)}",
        )
    return name


def take(table: TensorTable, architecture: str, config: JsonObject) -> Taken:
    """W_enc, b_enc, W_dec, b_dec and what else the architecture has, in our orientation."""
    d_in = config.whole("d_in")
    d_out = config.whole("d_out") if architecture.endswith("transcoder") else d_in
    dims = {"d_in": d_in, "d_out": d_out, "d_sae": config.whole("d_sae")}
    layout = _LAYOUTS[architecture]
    factor = _factor_name(table, config)
    if factor:
        layout = {**layout, factor: ("d_sae",)}
    tensors = {name: value.clone() for name, value in table.take(layout, dims).items()}
    finetuned = bool(factor) and _says_something(tensors[factor], factor, config)
    if finetuned:
        tensors["W_dec"] = tensors["W_dec"].double() * tensors[factor].double()[:, None]
    if architecture == "gated":
        tensors |= as_threshold(
            tensors["W_enc"], tensors["b_gate"], tensors["b_mag"], tensors["r_mag"]
        )
    return Taken(tensors, finetuned)


def _factor_name(table: TensorTable, config: JsonObject) -> str:
    if saelens_config.major(config) >= saelens_config.FIRST_WITH_METADATA:
        return ""
    return next((name for name in _FACTORS if name in table.headers), "")


def _says_something(factor_F: Tensor, name: str, config: JsonObject) -> bool:
    """False for factors of 1, as SAELens tells whether they matter.

    Raises FormatError where the config denies them.
    """
    if torch.allclose(factor_F, torch.ones_like(factor_F)):
        return False
    stated = "finetuning_scaling_factor" in config.values
    optional = not stated and saelens_config.major(config) < _ALWAYS_APPLIED
    if not optional and not config.flag("finetuning_scaling_factor", default=False):
        raise config.wrong(
            "finetuning_scaling_factor", f"is not true, but the tensor {name} is not 1"
        )
    return True
