"""Gemma Scope 2: `config.json` and `params.safetensors`; JumpReLU without subtracting b_dec.

Some folders of the release hold no `config.json`; their names say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saeserve.core.formats.model import ThresholdActivation
from saeserve.core.peers import hooks, releases
from saeserve.core.peers.files import ForeignFiles, JsonObject, read_json
from saeserve.core.peers.foreign import UNNAMED, ForeignModel
from saeserve.core.peers.safetensors_file import open_safetensors
from saeserve.core.peers.tables import Layout, TensorTable
from saeserve.errors import FormatError

CONFIG, PARAMS = "config.json", "params.safetensors"
_LAYOUT: Layout = {
    "w_enc": ("d_in", "d_sae"),
    "b_enc": ("d_sae",),
    "w_dec": ("d_sae", "d_out"),
    "b_dec": ("d_out",),
    "threshold": ("d_sae",),
}
_AFFINE = "affine_skip_connection"
_TYPES = ("sae", "transcoder", "skip_transcoder")
_INPUTS = {
    "resid_post": "model.layers.{}.output",
    "attn_out": "model.layers.{}.self_attn.o_proj.input",
    "mlp_out": "model.layers.{}.post_feedforward_layernorm.output",
    "transcoder": "model.layers.{}.pre_feedforward_layernorm.output",
}


def read(files: ForeignFiles) -> ForeignModel:
    """Raises FormatError for cross-layer transcoders and crosscoders, and where config, folder and
    tensors contradict each other."""
    config = _config(files)
    if config.text("architecture") != "jump_relu":
        raise config.wrong("architecture", "is not imported")
    kind = config.text("type", "sae")
    if kind not in _TYPES:
        raise config.wrong("type", f"is not imported ({', '.join(_TYPES)} are)")
    with open_safetensors(files.file(PARAMS), files.admit) as table:
        tensors = _tensors(table, config)
    source, target = _places(files, config, tensors)
    return ForeignModel(
        architecture="jumprelu",
        W_enc_DF=tensors["w_enc"],
        b_enc_F=tensors["b_enc"],
        W_dec_FO=tensors["w_dec"],
        b_dec_O=tensors["b_dec"],
        threshold_F=tensors["threshold"],
        W_skip_OD=tensors[_AFFINE].T if _AFFINE in tensors else None,
        activation=ThresholdActivation(),
        source=source,
        target=target,
        writer="Gemma Scope 2",
        conventions={"b_dec": "not subtracted", "normalisation": "none", "layer_norm": "none"},
        details={"foreign_config": dict(config.values)},
    )


def _config(files: ForeignFiles) -> JsonObject:
    """The file, or what the release's folder says where it holds none."""
    said = releases.gemma_scope_2(files.folders)
    try:
        return read_json(files.file(CONFIG))
    except FormatError:
        if said is None or _present(files, CONFIG):
            raise
    site, layer, affine = said
    values: Mapping[str, Any] = {
        "architecture": "jump_relu",
        "hf_hook_point_in": _INPUTS[site].format(layer),
        "hf_hook_point_out": _INPUTS["mlp_out" if site == "transcoder" else site].format(layer),
        "affine_connection": affine,
    }
    return JsonObject(values, "the folder's name")


def _present(files: ForeignFiles, name: str) -> bool:
    return (files.resolve("") / name).exists()


def _tensors(table: TensorTable, config: JsonObject) -> dict[str, Tensor]:
    header = table.headers.get("w_dec")
    if header is not None and len(header.shape) == 3:
        raise FormatError(
            f"{PARAMS}: w_dec has shape {list(header.shape)}: a cross-layer transcoder or a "
            "crosscoder",
            remedy="import SAEs and per-layer transcoders",
        )
    affine = _AFFINE in table.headers
    if config.flag("affine_connection", default=affine) != affine:
        there = "is" if affine else "is not"
        raise config.wrong("affine_connection", f"does not fit {PARAMS}: {_AFFINE} {there} there")
    layout = {**_LAYOUT, _AFFINE: ("d_in", "d_out")} if affine else _LAYOUT
    return {name: value.clone() for name, value in table.take(layout).items()}


def _places(
    files: ForeignFiles, config: JsonObject, tensors: Mapping[str, Tensor]
) -> tuple[str, str]:
    """Source and target; the target is empty for an autoencoder.

    A transcoder is known by its type, its two places, its widths, its skip connection or its
    folder; any one of them suffices.
    """
    source = hooks.point_of(config.optional_text("hf_hook_point_in")) or UNNAMED
    target = hooks.point_of(config.optional_text("hf_hook_point_out")) or source
    said = releases.gemma_scope_2(files.folders)
    transcodes = (
        config.text("type", "sae") != "sae"
        or _AFFINE in tensors
        or tensors["w_enc"].shape[0] != tensors["w_dec"].shape[1]
        or (said is not None and said[0] == "transcoder")
    )
    if transcodes and target == source:
        return source, "target"
    return source, "" if target == source else target
